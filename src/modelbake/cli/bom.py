"""modelbake bom: a bundle's bill of materials."""

from __future__ import annotations

from pathlib import Path

import click

from modelbake.cli.options import load_settings, models_dir_option, speaking
from modelbake.output import out


@click.command("bom")
@click.argument("bundle")
@models_dir_option
@speaking
def command(bundle: str, models_dir: Path | None) -> None:
    """Print the bill of materials of BUNDLE in the models folder: a CycloneDX 1.6 ML-BOM, the same bytes each time."""
    from modelbake import manifest
    from modelbake.oci import bom

    document = bom.bom(manifest.read(load_settings(models_dir).models_dir).bundle(bundle))
    out.result(document, bom.encode(document).decode().splitlines())
