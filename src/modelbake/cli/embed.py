"""modelbake embed: texts or images to embeddings, from the manifest alone."""

from __future__ import annotations

import os
from pathlib import Path

import click

from modelbake import manifest
from modelbake.cli.options import load_settings, models_dir_option, speaking, stdin_lines
from modelbake.output import out

# Up to so many inputs it takes longer to prepare the graph for many than it saves.
FEW = 32


@click.command("embed")
@click.option(
    "--bundle",
    "name",
    required=True,
    help="The bundle to embed with, or a kind (clip, text_encoder): then its default bundle.",
)
@click.option("--text", "texts", multiple=True, help="A text; may be repeated.")
@click.option(
    "--image", "images", multiple=True, type=click.Path(path_type=Path), help="An image file; may be repeated."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="The variant to embed with [default: fp32, else the only one that the bundle has].",
)
@click.option("--stdin", "from_stdin", is_flag=True, help="One text per line of standard input.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads to compute with [default: MODELBAKE_THREADS, else as many as there are usable cores].",
)
@models_dir_option
@speaking
def command(
    name: str,
    texts: tuple[str, ...],
    images: tuple[Path, ...],
    precision: str | None,
    from_stdin: bool,
    threads: int | None,
    models_dir: Path | None,
) -> None:
    """Embed texts or images and print one embedding a line, or with --json one object:
    {"bundle", "weights", "dimensions", "embeddings": [[...]]}.

    Lines of standard input are embedded a thousand at a time; there may be any number of them, unless --json collects them."""
    if sum(map(bool, (texts, images, from_stdin))) != 1:
        raise click.UsageError(
            "Give texts with --text, images with --image, or --stdin: one of the three.", click.get_current_context()
        )
    # numpy is used for no linear algebra here, and would start a thread for every core when it is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from modelbake.runtime.encoder import ImageEncoder, TextEncoder

    settings = load_settings(models_dir)
    folder = settings.models_dir
    threads = threads or settings.threads
    brief = not from_stdin and len(texts) + len(images) <= FEW
    entry = manifest.read(folder).bundle_or_default(name)
    name = entry.name
    if entry.weights == "sample":
        out.warn(f"{name} has SAMPLE WEIGHTS (random): its embeddings mean nothing.")
    if images:
        images_encoder = ImageEncoder(entry, folder, threads, precision, brief)
        dimension, parts = images_encoder.dimension, iter([images_encoder.embed(images)])
    else:
        encoder = TextEncoder(entry, folder, threads, precision, brief)
        dimension, parts = encoder.dimension, encoder.embed_iter(stdin_lines() if from_stdin else texts)
    rows = (row for part in parts for row in part.tolist())
    data = {"bundle": name, "weights": entry.weights, "dimensions": dimension}
    if out.json:
        data["embeddings"] = list(rows)
    out.result(data, (" ".join(f"{value:.6g}" for value in row) for row in rows))
