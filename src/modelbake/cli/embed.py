"""modelbake embed: texts or images to embeddings, from the manifest alone."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from modelbake import manifest
from modelbake.cli.options import load_settings, models_dir_option, speaking
from modelbake.errors import UsageError
from modelbake.output import out


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
@click.option("--stdin", "from_stdin", is_flag=True, help="One text per line of standard input.")
@models_dir_option
@speaking
def command(
    name: str, texts: tuple[str, ...], images: tuple[Path, ...], from_stdin: bool, models_dir: Path | None
) -> None:
    """Embed texts or images and print one embedding a line, or with --json one object:
    {"bundle", "weights", "dimensions", "embeddings": [[...]]}."""
    if sum(map(bool, (texts, images, from_stdin))) != 1:
        raise click.UsageError(
            "Give texts with --text, images with --image, or --stdin: one of the three.", click.get_current_context()
        )
    from modelbake.runtime.encoder import ImageEncoder, TextEncoder

    folder = load_settings(models_dir).models_dir
    entry = manifest.read(folder).bundle_or_default(name)
    name = entry.name
    if entry.weights == "sample":
        out.warn(f"{name} has SAMPLE WEIGHTS (random): its embeddings mean nothing.")
    if images:
        embeddings = ImageEncoder(entry, folder).embed(list(images))
    else:
        encoder = TextEncoder(entry, folder)
        embeddings = encoder.embed(_lines() if from_stdin else list(texts))
    rows = embeddings.tolist()
    data = {"bundle": name, "weights": entry.weights, "dimensions": embeddings.shape[1], "embeddings": rows}
    out.result(data, (" ".join(f"{value:.6g}" for value in row) for row in rows))


def _lines() -> list[str]:
    try:
        return [line.rstrip("\r\n") for line in sys.stdin]
    except UnicodeDecodeError as error:
        raise UsageError(f"Standard input is no {error.encoding} text ({error}); convert it first.") from error
