"""modelbake report: one HTML page on the models folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from modelbake import manifest
from modelbake.cli.options import load_settings, models_dir_option, speaking
from modelbake.files import write_atomically
from modelbake.output import out


@click.command("report")
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    default="modelbake-report.html",
    show_default=True,
    help="The file to write; - for standard output.",
)
@click.option("--no-speed", is_flag=True, help="Do not time the models on this machine, which takes seconds for each.")
@models_dir_option
@speaking
def command(to: Path, no_speed: bool, models_dir: Path | None) -> None:
    """Write one HTML page on the models folder: sizes, parity, speed, licences, provenance. It opens without a network."""
    from modelbake.inspect import inspect_models
    from modelbake.report.page import render
    from modelbake.report.speed import Timing, machine, measure

    folder = load_settings(models_dir).models_dir
    entries = inspect_models(folder)
    timings: list[Timing] = []
    if not no_speed:
        found = manifest.read(folder).bundles
        progress = out.progress(len(found), "timing", "bundle")
        for entry in found:
            timings += measure(folder, entry)
            progress.update(1)
        progress.close()
    html = render(entries, timings, machine())
    data = {
        "report": str(to),
        "bundles": [entry["name"] for entry in entries],
        "machine": machine() if timings else None,
        "speed": [asdict(timing) for timing in timings],
    }
    if str(to) == "-":
        out.result({**data, "html": html}, [html.rstrip("\n")])
        return
    write_atomically(to, html.encode())
    out.result(data, [f"{to}: {len(entries)} bundles, {len(html.encode()) / 1e3:.0f} kB"])
