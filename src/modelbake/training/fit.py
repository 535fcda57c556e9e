"""From a file of training data to a trained regressor with its graph, figures and plot: the steps in order."""

from __future__ import annotations

import importlib.util
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modelbake import parity
from modelbake.bundle import Gates
from modelbake.errors import MachineError, NoGainError, UsageError
from modelbake.export.artifact import tool_versions
from modelbake.files import file_ref, sha256_of
from modelbake.output import out
from modelbake.training import metrics
from modelbake.training.metrics import Metrics, Part, Scores
from modelbake.training.placing import all_or_none

if TYPE_CHECKING:
    from modelbake.export.boundary_regressor.data import Indices, Split, TrainingData
    from modelbake.export.boundary_regressor.train import Epoch, Trained

# What a training writes beside the weights. These go into place last: where they are, the rest is.
SUFFIXES = (".safetensors", ".onnx", ".metrics.json", ".svg")
WEIGHTS_SUFFIX = ".pth"
RANDOM_NETWORKS = 5
# What modelbake's exporters and the plot import when used: told before the work and not in the midst of it.
FRAMEWORKS = ("torch", "onnx", "safetensors", "matplotlib")


@dataclass(frozen=True)
class Fit:
    """What was made: the files, the weights first, and what is said of them."""

    files: tuple[Path, ...]
    metrics: Metrics


def fit(data: Path, weights: Path, seed: int, epochs: int, keep_without_gain: bool = False) -> Fit:
    """Train on the rows of `data` and write `weights` (.pth) and, beside it, the files of SUFFIXES: all of them or none.

    Same data, seed and versions: same bytes. IntegrityError where the data is not valid, NoGainError where the result is no
    better than no adjustment on the held-out videos (with `keep_without_gain` a warning instead), ParityError where the
    graph does not compute what the network does, MachineError where nothing can be written, UsageError for other names.
    """
    if weights.suffix != WEIGHTS_SUFFIX or weights.name == WEIGHTS_SUFFIX:
        raise UsageError(f"{weights}: the weights' file name has to end in {WEIGHTS_SUFFIX}; name it so.")
    # Python leaves "." and ".." in a path; the file's own folder is what is meant.
    weights = Path(os.path.abspath(weights))
    targets = (*(weights.with_suffix(suffix) for suffix in SUFFIXES), weights)
    if data.exists() and any(target.exists() and target.samefile(data) for target in targets):
        raise UsageError(f"{data} would be overwritten by the result; give the weights another name.")
    _need_frameworks()
    with all_or_none(targets) as folder:
        made = _fit(data, folder, weights.stem, seed, epochs, keep_without_gain)
    return Fit((weights, *targets[:-1]), made)


def _fit(data: Path, folder: Path, stem: str, seed: int, epochs: int, keep_without_gain: bool) -> Metrics:
    from modelbake.export.boundary_regressor import build
    from modelbake.export.boundary_regressor import data as training_data
    from modelbake.export.boundary_regressor import train as training
    from modelbake.export.boundary_regressor import weights as writing

    out.info(f"reading {data}")
    split = training_data.split_by_video(training_data.read(data), seed, str(data))
    parts = [_part(split.data, rows) for rows in (split.train_rows, split.validation_rows, split.test_rows)]
    out.info(
        f"{len(split.data)} rows; training on {parts[0].videos} videos, stopping by {parts[1].videos}, judging by {parts[2].videos}"
    )
    trained = _train(split, seed, epochs)
    test = split.test
    adjusted = training.adjust(trained.network, test)
    judged = metrics.held_out(
        _scores(adjusted, test),
        _scores(test.segments, test),
        [_scores(training.adjust(training.random_network(split, n), test), test) for n in range(RANDOM_NETWORKS)],
    )
    if not judged.better_than_no_adjustment:
        _tell_no_gain(judged, keep_without_gain)

    draft = build.write_graph(trained.network, test, seed, folder, f"{stem}.onnx", "goldens.npz")
    figures = parity.replay(folder, draft, folder / "goldens.npz", Gates().max_abs_diff)
    writing.write_weights(trained.network, folder / f"{stem}{WEIGHTS_SUFFIX}")
    writing.write_safetensors(trained.network, folder / f"{stem}.safetensors")
    made = Metrics(
        schema_version=metrics.SCHEMA_VERSION,
        data=metrics.Data(sha256_of(data), data.stat().st_size, *parts),
        training=_training(trained, seed, epochs),
        held_out=judged,
        parity=figures,
        files=tuple(file_ref(folder, f"{stem}{suffix}") for suffix in (WEIGHTS_SUFFIX, ".safetensors", ".onnx")),
        tools=tool_versions("numpy", "onnx", "onnxruntime", "torch"),
    )
    (folder / f"{stem}.metrics.json").write_bytes(metrics.encode(made))
    from modelbake.training import plot

    plot.write(folder / f"{stem}.svg", made, _errors(test.segments, test), _errors(adjusted, test))
    return made


def _need_frameworks() -> None:
    missing = [name for name in FRAMEWORKS if importlib.util.find_spec(name) is None]
    if missing:
        raise MachineError(
            f"Training needs {', '.join(missing)}, which this Python does not have. `make test` sets up .venv with all that is "
            "needed; `pip install '.[convert]'` does so elsewhere."
        )


def _train(split: Split, seed: int, epochs: int) -> Trained:
    from modelbake.export.boundary_regressor.train import train

    with closing(out.progress(epochs, "training", unit="epoch")) as progress:

        def told(epoch: Epoch) -> None:
            progress.update(1)
            out.detail(
                f"epoch {epoch.number}: training loss {epoch.train_loss:.5f}, validation loss {epoch.validation_loss:.5f}"
            )

        return train(split, seed, epochs, told)


def _training(trained: Trained, seed: int, epochs: int) -> metrics.Training:
    return metrics.Training(
        seed=seed,
        most_epochs=epochs,
        best_epoch=trained.best_epoch,
        train_losses=tuple(round(epoch.train_loss, 6) for epoch in trained.epochs),
        validation_losses=tuple(round(epoch.validation_loss, 6) for epoch in trained.epochs),
    )


def _tell_no_gain(judged: metrics.HeldOut, keep: bool) -> None:
    found, none = judged.trained, judged.no_adjustment
    problem = (
        "On the held-out videos the trained weights are no better than no adjustment: "
        f"mean absolute error {found.mean_absolute_error:.4f} s against {none.mean_absolute_error:.4f} s, "
        f"mean temporal IoU {found.mean_iou:.4f} against {none.mean_iou:.4f}."
    )
    if not keep:
        raise NoGainError(
            f"{problem} Nothing was written. Give it more videos, or look whether features and targets belong together; "
            "--keep-without-gain writes the result all the same."
        )
    out.warn(f"{problem} Written all the same; do not deploy it.")


def _part(data: TrainingData, rows: Indices) -> Part:
    return Part(len({data.video_ids[i] for i in rows}), len(rows))


def _scores(segments: NDArray[np.float32], rows: TrainingData) -> Scores:
    from modelbake.export.boundary_regressor.train import score

    found = score(segments, rows.targets)
    return Scores(found.mean_absolute_error, found.mean_iou)


def _errors(segments: NDArray[np.float32], rows: TrainingData) -> NDArray[np.float64]:
    errors: NDArray[np.float64] = np.abs(segments.astype(np.float64) - rows.targets).mean(axis=1)
    return errors
