"""models/regressor/make_training_data.py: annotated proposals and frames of videos to the regressor's training data."""

from __future__ import annotations

from pathlib import Path

import click

from modelbake import manifest
from modelbake.cli.options import load_settings, models_dir_option, speaking
from modelbake.errors import IntegrityError
from modelbake.output import out

# What the regressor's data format has.
DIMENSION = 512


@click.command("make_training_data", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("annotations", type=click.Path(path_type=Path))
@click.argument("frames", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--fps", type=click.FloatRange(0, min_open=True), required=True, help="Frames a second in FRAMES.")
@click.option("--bundle", "name", default="clip-vit-b-32", show_default=True, help="The CLIP bundle to embed with.")
@models_dir_option
@speaking
def command(annotations: Path, frames: Path, data: Path, fps: float, name: str, models_dir: Path | None) -> None:
    """Embed what ANNOTATIONS (CSV: video_id, query, start, end, target_start, target_end) names and write training data to DATA.

    FRAMES has a folder of images for each video_id, taken at regular times: `ffmpeg -i VIDEO -vf fps=4 FRAMES/ID/%06d.jpg`.
    """
    from modelbake.runtime.encoder import ImageEncoder, TextEncoder
    from modelbake.training import features

    proposals = features.read_annotations(annotations)
    folder = load_settings(models_dir).models_dir
    entry = manifest.read(folder).bundle(name)
    if entry.weights == "sample":
        out.warn(f"{name} has SAMPLE WEIGHTS (random): data made with it teaches nothing of videos.")
    texts, images = TextEncoder(entry, folder), ImageEncoder(entry, folder)
    if texts.dimension != DIMENSION or images.dimension != DIMENSION:
        raise IntegrityError(
            f"{name} embeds to {images.dimension} numbers, the regressor takes {DIMENSION}; choose another bundle."
        )
    count = features.write_rows(proposals, frames, fps, texts.embed, images.embed, data)
    out.result({"file": str(data), "rows": count, "bundle": name, "weights": entry.weights}, [f"{data}: {count} rows"])
