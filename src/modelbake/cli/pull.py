"""modelbake pull: a bundle out of a registry or the store, into a models folder or the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelbake.cli.oci import check_signers, find_policies, moved_line, plain_http_option, signature_option
from modelbake.cli.options import load_settings, speaking
from modelbake.errors import RefusedError
from modelbake.output import out
from modelbake.settings import Settings

if TYPE_CHECKING:
    from modelbake.oci.policy import Policy


@click.command("pull")
@click.argument("reference", metavar="[REF]", required=False)
@click.option(
    "--to", "folder", type=click.Path(path_type=Path, file_okay=False), help="A models folder [default: the store]."
)
@click.option("--format", "kind", help="Only artifacts of that format, such as onnx; with --to.")
@click.option("--precision", help="Only artifacts of that precision: fp32, fp16 or int8; with --to.")
@click.option("--role", help="Only artifacts of that role, such as text_encoder; with --to.")
@click.option(
    "--lock",
    "lock_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Pull the digests that this file pins; pin what it lacks.",
)
@click.option("--locked", is_flag=True, help="With --lock: refuse what the file does not pin.")
@signature_option
@plain_http_option
@speaking
def command(
    reference: str | None,
    folder: Path | None,
    kind: str | None,
    precision: str | None,
    role: str | None,
    lock_file: Path | None,
    locked: bool,
    keys: tuple[Path, ...],
    plain_http: bool,
) -> None:
    """Bring the bundles of REF (HOST/REPOSITORY:TAG, or store:NAME) here, every byte hashed; without REF all that --lock pins.

    What is here already, and known not to have changed, is neither sent nor read again. The project's modelbake.policy.toml, if it
    has one, says which keys must have signed it.
    """
    from modelbake.oci import pins
    from modelbake.oci.pull import Wanted

    context = click.get_current_context()
    settings = load_settings()
    wanted = Wanted(kind, precision, role)
    if folder is None and wanted != Wanted():
        raise click.UsageError("--format, --precision and --role choose among files; they go with --to.", context)
    if folder is None and reference and reference.startswith("store:"):
        raise click.UsageError("What is in the store is brought into a folder; give --to.", context)
    if locked and lock_file is None:
        raise click.UsageError("--locked goes with --lock.", context)
    pinned = pins.read(lock_file) if lock_file else pins.Pins()
    if reference is None and not pinned.pulls:
        raise click.UsageError("Give REF, or a --lock that pins some.", context)
    policies = find_policies(settings, keys)
    results = []
    for one in [reference] if reference else sorted(pinned.pulls):
        pin = pinned.pulls.get(one)
        if locked and pin is None:
            raise RefusedError(
                f"{lock_file} does not pin {one}; pull it once without --locked, and look at what changed."
            )
        results.append(bring(settings, one, pin, folder, wanted, policies, plain_http))
        if lock_file and pin is None:
            pins.add(lock_file, one, results[-1]["digest"])
    lines = [line for result in results for line in result.pop("lines")]
    out.result(results[0] if reference else results, lines)


def bring(
    settings: Settings,
    reference: str,
    pin: str | None,
    folder: Path | None,
    wanted: Any,
    policies: list[Policy],
    plain_http: bool,
) -> dict[str, Any]:
    """Bring what the reference, or rather its digest `pin`, leads to into a models folder or the store; the result, with its `lines`."""
    from modelbake.digests import Digests
    from modelbake.oci import pull
    from modelbake.oci.locate import locate
    from modelbake.oci.store import Store
    from modelbake.oci.transfer import Moved

    where = locate(reference, settings, plain_http)
    root = where.place.resolve(pin) if pin else where.resolve()
    result: dict[str, Any] = {"reference": str(where), "digest": root.digest}
    lines = [str(where), f"  digest  {root.digest}"]
    signers = check_signers(where, root, policies)
    if signers:
        result["signed_by"] = signers
        lines.append(f"  signed  by {', '.join(signers)}")
    if folder is None:
        from modelbake.oci.companions import copy

        moved = copy(where.place, root, Store(settings.store_dir), [str(where)], where.name)
        result["to"] = f"store:{where}"
    else:
        moved = Moved(0, 0, 0, 0)
        digests = Digests(settings.cache_dir)
        bundles = pull.look(where.place, root)
        for found in bundles:
            one = pull.pull(where.place, found, wanted, folder, digests)
            moved = Moved(
                moved.sent + one.sent,
                moved.sent_blobs + one.sent_blobs,
                moved.total + one.total,
                moved.total_blobs + one.total_blobs,
            )
            if found.entry.weights == "sample":
                out.warn(f"{found.entry.name}: SAMPLE WEIGHTS (random), for trying out, not for use.")
        result |= {"to": str(folder), "bundles": [found.entry.name for found in bundles]}
        lines.append(f"  bundles {', '.join(found.entry.name for found in bundles)} in {folder}")
    return result | {"received": moved.sent, "size": moved.total, "lines": [*lines, moved_line("received", moved)]}
