"""modelbake layers: a models folder into one tree per file, for the image build."""

from __future__ import annotations

from pathlib import Path

import click

from modelbake.cli.options import speaking
from modelbake.output import out


@click.command("layers")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--to", required=True, type=click.Path(path_type=Path, file_okay=False), help="The folder for the trees 01, 02, …"
)
@click.option(
    "--count",
    required=True,
    type=click.IntRange(min=1),
    help="How many trees the image copies; any other number is an error.",
)
@speaking
def command(models: tuple[Path, ...], to: Path, count: int) -> None:
    """Lay out the files of MODELS folders as trees below --to, one file each, that become image layers of stable digest.

    The last tree holds the merged manifest.
    """
    from modelbake.layers import lay_out

    paths = lay_out(list(models), to, count)
    out.result(paths, [f"{index:02} {path}" for index, path in enumerate(paths, 1)])
