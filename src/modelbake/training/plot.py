"""The result of a training as one SVG: errors with and without adjustment on held-out videos, and the learning curve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelbake.training.metrics import Metrics

# A dot for each held-out row up to this many, so that the file stays small; more are thinned evenly.
MOST_DOTS = 500


def write(path: Path, metrics: Metrics, before: NDArray[np.float64], after: NDArray[np.float64]) -> None:
    """Write the picture to `path`: same figures, same bytes.

    `before`, `after`: float64 [held-out rows], mean absolute error of a row's two boundaries in seconds, without and with
    adjustment.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # The salt makes element ids the same at every run; the defaults keep a user's own style out.
    with matplotlib.rc_context(matplotlib.rcParamsDefault | {"svg.hashsalt": "modelbake", "svg.fonttype": "none"}):
        figure = Figure(figsize=(10, 4.5), layout="constrained")
        FigureCanvasSVG(figure)
        left, right = figure.subplots(1, 2)

        chosen = (
            np.unique(np.linspace(0, len(before) - 1, MOST_DOTS).astype(int))
            if len(before) > MOST_DOTS
            else slice(None)
        )
        highest = float(max(before.max(), after.max(), 1e-3)) * 1.05
        left.plot([0, highest], [0, highest], color="0.6", linewidth=1, label="no change")
        left.scatter(before[chosen], after[chosen], s=10, alpha=0.5, linewidths=0, label="held-out row")
        left.set(xlim=(0, highest), ylim=(0, highest), aspect="equal")
        scores = metrics.held_out
        left.set_xlabel(f"error without adjustment, s (mean {scores.no_adjustment.mean_absolute_error:.3f})")
        left.set_ylabel(f"error with adjustment, s (mean {scores.trained.mean_absolute_error:.3f})")
        left.set_title(f"Held-out videos: IoU {scores.no_adjustment.mean_iou:.3f} → {scores.trained.mean_iou:.3f}")
        left.legend(loc="upper left")

        training = metrics.training
        epochs = range(1, len(training.train_losses) + 1)
        right.plot(epochs, training.train_losses, label="training")
        right.plot(epochs, training.validation_losses, label="validation")
        right.axvline(training.best_epoch, color="0.6", linewidth=1, label=f"kept: epoch {training.best_epoch}")
        right.set(xlabel="epoch", ylabel="loss (smooth L1, share of length)", ylim=(0, None), title="Learning curve")
        right.legend(loc="upper right")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
