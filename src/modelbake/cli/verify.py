"""modelbake verify: hash again, replay again; or verify signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from modelbake.cli.oci import plain_http_option
from modelbake.cli.options import load_settings, models_dir_option, speaking
from modelbake.coreml import PROVES
from modelbake.manifest import Parity, Quality
from modelbake.output import out, table


@click.command("verify")
@click.argument("bundles", nargs=-1)
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Verify that this public key signed BUNDLES, which are references (store:NAME or HOST/REPOSITORY:TAG); several times: all.",
)
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The same by the policy in this file.",
)
@click.option("--image", help="Verify inside this image: by its own modelbake, or outside it where it has none.")
@click.option("--here", is_flag=True, help="With --image: take its files out, and verify them with this modelbake.")
@plain_http_option
@models_dir_option
@speaking
def command(
    bundles: tuple[str, ...],
    keys: tuple[Path, ...],
    policy_file: Path | None,
    image: str | None,
    here: bool,
    plain_http: bool,
    models_dir: Path | None,
) -> None:
    """Hash every file of BUNDLES (default: all) in the models folder, or in an image, again, and replay their goldens.

    With --key or --policy: verify the signatures of what is in the store or in a registry.
    """
    if keys or policy_file is not None:
        if image is not None or here or models_dir is not None or not bundles or (keys and policy_file is not None):
            raise click.UsageError(
                "--key or --policy goes with references, and with nothing else.", click.get_current_context()
            )
        _verify_signatures(bundles, keys, policy_file, plain_http)
        return
    if plain_http:
        raise click.UsageError("--plain-http goes with --key or --policy.", click.get_current_context())
    if image is None and here:
        raise click.UsageError("--here goes with --image.", click.get_current_context())
    if image is not None and models_dir is not None:
        raise click.UsageError("Give --image or --models-dir, not both.", click.get_current_context())
    if image is not None:
        from modelbake.bake.verify import verify_image

        figures = verify_image(image, bundles, here=here)
    else:
        from modelbake.verify import verify

        figures = verify(load_settings(models_dir).models_dir, bundles)
    rows = [[name, path, *_cells(one)] for name, artifacts in figures.items() for path, one in artifacts.items()]
    out.result(msgspec.to_builtins(figures), table(["bundle", "artifact", "figure", "gate", "of"], rows))
    if any(path.endswith(".mlmodel") for artifacts in figures.values() for path in artifacts):
        out.info(f"Core ML packages: {PROVES}")


def _verify_signatures(
    references: tuple[str, ...], keys: tuple[Path, ...], policy_file: Path | None, plain_http: bool
) -> None:
    from modelbake.oci import policy
    from modelbake.oci.locate import locate

    wanted = policy.read(policy_file) if policy_file is not None else policy.of_keys(keys)
    settings = load_settings()
    results: list[dict[str, Any]] = []
    rows = []
    for text in references:
        found = locate(text, settings, plain_http)
        subject = found.resolve()
        signatures = policy.require(found.place, subject, found.reference, wanted)
        results.append(
            {
                "reference": text,
                "digest": subject.digest,
                "signatures": [
                    {
                        "key": one.key.name,
                        "fingerprint": one.key.fingerprint,
                        "identity": one.identity,
                        "annotations": dict(one.annotations),
                    }
                    for one in signatures
                ],
            }
        )
        rows.append([text, subject.digest, ", ".join(one.key.name for one in signatures) or "may be unsigned"])
    out.result(results, table(["reference", "digest", "signed by"], rows))


def _cells(figures: Parity | Quality) -> list[str]:
    if isinstance(figures, Parity):
        return [f"max abs diff {figures.max_abs_diff:g}", f"{figures.gate:g}", f"{figures.cases} cases"]
    return [
        f"cosine {figures.mean_cosine:g}, top-10 overlap {figures.top10_overlap:g}",
        f"{figures.mean_cosine_gate:g}, {figures.top10_overlap_gate:g}",
        f"{figures.items} items",
    ]
