"""scripts/coreml/convert_embedding.py: all-MiniLM-L6-v2 to Core ML packages."""

from __future__ import annotations

import os
from pathlib import Path

import click

from modelbake.catalog import Catalog
from modelbake.cli.options import load_settings, locked_option, models_dir_option, speaking, weights_option
from modelbake.coreml import PROVES
from modelbake.errors import MachineError
from modelbake.manifest import Artifact
from modelbake.output import out, table

BUNDLE = "minilm-l6-v2-coreml"


@click.command("convert_embedding.py", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--bundle", default=BUNDLE, show_default=True, help="A bundle of the kind coreml_text_encoder or coreml_clip."
)
@models_dir_option
@weights_option
@locked_option
@speaking
def command(bundle: str, models_dir: Path | None, weights: str | None, locked: bool) -> None:
    """Convert the embedding model, verify the packages, and put them into models/coreml: `modelbake build` of that bundle.

    A package under its gate is not written (exit 6).
    """
    # They need torch, for which --help should not wait.
    from modelbake.pipeline import Pipeline

    settings = load_settings(models_dir, weights, locked=locked)
    _check_folder(settings.models_dir)
    entry = Pipeline(settings).build(Catalog(settings.bundles_dir).get(bundle))
    results, rows = [], []
    for artifact in entry.artifacts:
        assert artifact.coreml is not None
        size = sum(ref.size for ref in entry.files if ref.path.startswith(f"{artifact.coreml.package}/"))
        results.append(
            {
                "package": artifact.coreml.package,
                "precision": artifact.precision,
                "size": size,
                "max_abs_diff": artifact.parity.max_abs_diff if artifact.parity else None,
                "mean_cosine": artifact.quality.mean_cosine if artifact.quality else None,
                "top10_overlap": artifact.quality.top10_overlap if artifact.quality else None,
                "minimum_os": artifact.coreml.minimum_os,
            }
        )
        rows.append([artifact.coreml.package, artifact.precision, f"{size / 1e6:.1f} MB", _figures(artifact)])
    head = {"bundle": entry.name, "weights": entry.weights, "digest": entry.digest, "proves": PROVES}
    out.result(
        {**head, "packages": results},
        [*table(["package", "precision", "size", "parity"], rows), f"weights: {entry.weights}; {PROVES}"],
    )


def _figures(artifact: Artifact) -> str:
    if artifact.parity is not None:
        return f"{artifact.parity.max_abs_diff:g} (gate {artifact.parity.gate:g})"
    assert artifact.quality is not None
    quality = artifact.quality
    return (
        f"mean cosine {quality.mean_cosine:g} (gate {quality.mean_cosine_gate:g}), "
        f"top-10 {quality.top10_overlap:g} (gate {quality.top10_overlap_gate:g})"
    )


def _check_folder(models: Path) -> None:
    """Before minutes of work; in a container the folder is somebody's on the host."""
    folder = next(path for path in (models, *models.absolute().parents) if path.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        owner = folder.stat()
        raise MachineError(
            f"{folder} belongs to user {owner.st_uid} and cannot be written by user {os.geteuid()}. With docker compose, set "
            f"MODELBAKE_USER={owner.st_uid}:{owner.st_gid} (a line in .env beside compose.yaml); else give --models-dir another folder."
        )
