"""modelbake bake: offline images by docker buildx bake, with the weights that can be had, a table and a proof."""

from __future__ import annotations

import time

import click

from modelbake.catalog import Catalog
from modelbake.cli.options import load_settings, locked_option, speaking, weights_option
from modelbake.output import out, table


@click.command("bake")
@click.argument("targets", nargs=-1)
@weights_option
@locked_option
@click.option("--no-cache", is_flag=True, help="Run every build step anew.")
@speaking
def command(targets: tuple[str, ...], weights: str | None, locked: bool, no_cache: bool) -> None:
    """Build TARGETS of docker-bake.hcl (default: its default group), then show and prove what came out."""
    from modelbake.bake.docker import require_engine
    from modelbake.bake.run import run_bake

    started = time.monotonic()
    settings = load_settings(weights=weights, locked=locked)
    require_engine()
    baked = run_bake(settings, Catalog(settings.bundles_dir), targets, no_cache)
    rows = [
        [
            image.name,
            f"{image.size / 1e6:.0f} MB" if image.size is not None else "-",
            ", ".join(image.bundles) or "-",
            ", ".join(sorted(set(image.weights.values()))) or "-",
            f"{image.max_abs_diff:g}" if image.max_abs_diff is not None else "-",
            f"{image.seconds:.0f} s",
            image.proof,
        ]
        for image in baked
    ]
    header = ["image", "size", "bundles", "weights", "parity", "time", "offline proof"]
    footer = f"{len(baked)} images in {time.monotonic() - started:.0f} s"
    out.result([image.as_json() for image in baked], [*table(header, rows), footer])
    for image in baked:
        random = [name for name, kind in image.weights.items() if kind == "sample"]
        if random:
            out.warn(
                f"{image.name} holds SAMPLE WEIGHTS (random) for {', '.join(random)}: for trying out, not for use."
            )
