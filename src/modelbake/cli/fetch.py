"""modelbake fetch: bring a bundle's source files here."""

from __future__ import annotations

from pathlib import Path

import click

from modelbake.catalog import Catalog
from modelbake.cli.options import load_settings, locked_option, offline_option, speaking, weights_option
from modelbake.output import out


@click.command("fetch")
@click.argument("bundles", nargs=-1)
@click.option(
    "--to", type=click.Path(path_type=Path, file_okay=False), help="Where to put them [default: below the cache]."
)
@weights_option
@locked_option
@offline_option
@speaking
def command(bundles: tuple[str, ...], to: Path | None, weights: str | None, locked: bool, offline: bool) -> None:
    """Bring the source files of BUNDLES (default: all) here, checked against their digests."""
    from modelbake.pipeline import Pipeline

    settings = load_settings(weights=weights, offline=offline, locked=locked)
    pipeline = Pipeline(settings)
    results, lines = [], []
    for bundle in Catalog(settings.bundles_dir).select(bundles):
        folder = to / bundle.name if to else pipeline.sources_folder(bundle)
        fetched = pipeline.fetch(bundle, folder)
        size = sum(ref.size for ref in fetched.source.files)
        results.append(
            {
                "bundle": bundle.name,
                "weights": fetched.weights,
                "folder": str(folder),
                "files": len(fetched.source.files),
                "size": size,
            }
        )
        lines.append(
            f"{bundle.name}: {fetched.weights} weights, {len(fetched.source.files)} files, {size / 1e6:.1f} MB in {folder}"
        )
    out.result(results, lines)
