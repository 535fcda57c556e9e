"""modelbake verify: hash again, replay again."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from modelbake.cli.options import load_settings, models_dir_option, speaking
from modelbake.output import out, table


@click.command("verify")
@click.argument("bundles", nargs=-1)
@models_dir_option
@speaking
def command(bundles: tuple[str, ...], models_dir: Path | None) -> None:
    """Hash every file of BUNDLES (default: all) in the models folder again, and replay their goldens."""
    from modelbake.verify import verify

    figures = verify(load_settings(models_dir).models_dir, bundles)
    rows = [
        [name, path, f"{parity.max_abs_diff:g}", f"{parity.gate:g}", str(parity.cases)]
        for name, artifacts in figures.items()
        for path, parity in artifacts.items()
    ]
    out.result(msgspec.to_builtins(figures), table(["bundle", "artifact", "max abs diff", "gate", "cases"], rows))
