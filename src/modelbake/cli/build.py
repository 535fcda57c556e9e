"""modelbake build: bundles into the models folder."""

from __future__ import annotations

from pathlib import Path

import click

from modelbake.bundle import refuse_unpinned
from modelbake.catalog import Catalog
from modelbake.cli.options import (
    load_settings,
    locked_option,
    models_dir_option,
    offline_option,
    speaking,
    weights_option,
)
from modelbake.errors import UnknownNameError
from modelbake.output import out, table


@click.command("build")
@click.argument("bundles", nargs=-1)
@click.option(
    "--sources",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Take the source files from this folder, which `modelbake fetch --to` filled, and use no network.",
)
@click.option("--kind", help="Build only the bundles of this kind, as `modelbake list` shows it.")
@models_dir_option
@weights_option
@locked_option
@offline_option
@speaking
def command(
    bundles: tuple[str, ...],
    sources: Path | None,
    kind: str | None,
    models_dir: Path | None,
    weights: str | None,
    locked: bool,
    offline: bool,
) -> None:
    """Fetch, export and verify BUNDLES (default: all) and put them into the models folder."""
    from modelbake.pipeline import Pipeline

    settings = load_settings(models_dir, weights, offline, locked)
    pipeline = Pipeline(settings)
    chosen = [bundle for bundle in Catalog(settings.bundles_dir).select(bundles) if kind in (None, bundle.kind)]
    if not chosen:
        raise UnknownNameError(f"No bundle here is of the kind {kind!r}; `modelbake list` shows what there is.")
    if settings.locked:
        # All of them are named, and before the first is built.
        refuse_unpinned(chosen)
    entries = [pipeline.build(bundle, sources / bundle.name if sources else None) for bundle in chosen]
    results, rows = [], []
    for entry in entries:
        size = sum(ref.size for ref in entry.files)
        figures = [artifact.parity for artifact in entry.artifacts if artifact.parity is not None]
        worst, gate = max(one.max_abs_diff for one in figures), max(one.gate for one in figures)
        results.append(
            {
                "bundle": entry.name,
                "version": entry.version,
                "weights": entry.weights,
                "size": size,
                "digest": entry.digest,
                "max_abs_diff": worst,
                "gate": gate,
                "variants": [
                    {
                        "path": artifact.path,
                        "precision": artifact.precision,
                        "mean_cosine": artifact.quality.mean_cosine,
                        "top10_overlap": artifact.quality.top10_overlap,
                    }
                    for artifact in entry.artifacts
                    if artifact.quality is not None
                ],
            }
        )
        parity = f"{worst:g} (gate {gate:g})"
        rows.append([entry.name, entry.version, entry.weights, f"{size / 1e6:.1f} MB", parity, entry.digest[:12]])
    out.result(results, table(["bundle", "version", "weights", "size", "parity", "digest"], rows))
