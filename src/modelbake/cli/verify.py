"""modelbake verify: hash again, replay again."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from modelbake.cli.options import load_settings, models_dir_option, speaking
from modelbake.manifest import Parity, Quality
from modelbake.output import out, table


@click.command("verify")
@click.argument("bundles", nargs=-1)
@click.option("--image", help="Verify inside this image: by its own modelbake, or outside it where it has none.")
@click.option("--here", is_flag=True, help="With --image: take its files out, and verify them with this modelbake.")
@models_dir_option
@speaking
def command(bundles: tuple[str, ...], image: str | None, here: bool, models_dir: Path | None) -> None:
    """Hash every file of BUNDLES (default: all) in the models folder, or in an image, again, and replay their goldens."""
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


def _cells(figures: Parity | Quality) -> list[str]:
    if isinstance(figures, Parity):
        return [f"max abs diff {figures.max_abs_diff:g}", f"{figures.gate:g}", f"{figures.cases} cases"]
    return [
        f"cosine {figures.mean_cosine:g}, top-10 overlap {figures.top10_overlap:g}",
        f"{figures.mean_cosine_gate:g}, {figures.top10_overlap_gate:g}",
        f"{figures.items} items",
    ]
