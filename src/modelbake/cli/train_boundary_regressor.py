"""models/regressor/train_boundary_regressor.py: a file of training data to a trained boundary regressor."""

from __future__ import annotations

import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from modelbake.cli.options import speaking
from modelbake.output import out, table


@click.command("train_boundary_regressor", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Draws the split, the weights, the order of rows.",
)
@click.option("--epochs", type=click.IntRange(1), default=200, show_default=True, help="The most rounds over the rows.")
@click.option("--keep-without-gain", is_flag=True, help="Write the result even if it is no better than no adjustment.")
@speaking
def command(data: Path, model: Path, seed: int, epochs: int, keep_without_gain: bool) -> None:
    """Train the boundary regressor on DATA (JSON) and write MODEL (.pth), a plain state dict.

    Beside MODEL, with its name: .safetensors, .onnx (proven equal), .metrics.json (scores on held-out videos) and .svg (the
    same as a plot); all of them or none. README.md beside this script describes the format of DATA.

    Exit codes: 0 done, 2 usage, 4 DATA is not there, 5 DATA is not valid, 6 no better than no adjustment (nothing is written)
    or parity gate missed, 7 machine not able (folder not writable, disk full, memory), 130 interrupted.
    """
    from modelbake.training.fit import fit

    # As for Ctrl-C: the folder of half-made files is cleared.
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    began = time.monotonic()
    try:
        done = fit(data, model, seed, epochs, keep_without_gain)
    finally:
        signal.signal(signal.SIGTERM, before)
    seconds = time.monotonic() - began
    # Kilobytes on Linux, bytes on macOS (getrusage(2) of each).
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    judged = done.metrics.held_out
    result: dict[str, Any] = {
        "files": [str(path) for path in done.files],
        "held_out": msgspec.to_builtins(judged),
        "best_epoch": done.metrics.training.best_epoch,
        "parity": msgspec.to_builtins(done.metrics.parity),
        "seconds": round(seconds, 1),
        "peak_memory": peak,
    }
    rows = [
        [name, f"{scores.mean_absolute_error:.3f} s", f"{scores.mean_iou:.3f}"]
        for name, scores in (
            ("no adjustment", judged.no_adjustment),
            (f"random weights (mean of {judged.random_networks})", judged.random_weights),
            (f"trained weights (epoch {done.metrics.training.best_epoch})", judged.trained),
        )
    ]
    lines = table(["on the held-out videos", "mean absolute error", "mean temporal IoU"], rows)
    written = ", ".join(path.name for path in done.files)
    lines.append(f"{done.files[0].parent}: {written}; {seconds:.1f} s, {peak / 1e6:.0f} MB of memory at most")
    out.result(result, lines)
