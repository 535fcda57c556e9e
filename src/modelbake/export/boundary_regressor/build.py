"""From the bundle's training data, or from weights that somebody deployed, to its files: weights, ONNX graph, goldens."""

from __future__ import annotations

import copy
import random
import shutil
from pathlib import Path

import numpy as np
import torch

from modelbake import deployment, goldens
from modelbake.bundle import BoundaryRegressorModel, Bundle, safe_relative_path
from modelbake.errors import UsageError
from modelbake.export.artifact import Draft, Export, export_onnx, tool_versions
from modelbake.export.boundary_regressor.data import FEATURE_DIMENSION, Float32, TrainingData, read, split_by_video
from modelbake.export.boundary_regressor.model import BoundaryRegressor
from modelbake.export.boundary_regressor.train import train
from modelbake.export.boundary_regressor.weights import read_weights, write_weights
from modelbake.manifest import Role

ROLE: Role = "boundary_regressor"
INPUTS = ("text_features", "start_image_features", "end_image_features", "segment")
OUTPUT = "adjusted_segment"

# The graph is traced with two rows, so none of the goldens has the traced size.
TRACED_BATCH = 2
GOLDEN_BATCHES = (1, 3, 17)

# Seconds. Goldens stay below 64 s, where float32 numbers are 3.8e-6 s apart: further into a video the last bit alone
# would exceed a parity gate of 1e-5. The latest possible adjusted end is 40 + 16 * 1.45.
GOLDEN_LATEST_START = 40.0
GOLDEN_SHORTEST, GOLDEN_LONGEST = 0.5, 16.0


def build(bundle: Bundle, sources: Path, out: Path) -> Export:
    """What modelbake.export.boundary_regressor.export promises."""
    model = bundle.model
    if not isinstance(model, BoundaryRegressorModel):
        raise UsageError(
            f"The bundle {bundle.name!r} is a {bundle.kind}, not a boundary_regressor; export it with its own family."
        )
    safe_relative_path(model.model, f"The bundle {bundle.name!r}, model.model,")
    data_path = sources / safe_relative_path(model.data, f"The bundle {bundle.name!r}, model.data,")

    weights = deployment.output_place(model.model)
    place = deployment.find(sources, model.model)
    if place is None:
        split = split_by_video(read(data_path), model.seed, str(data_path))
        network, rows = train(split, model.seed, model.epochs).network, split.test
        write_weights(network, out / weights, by_build=True)
    else:
        network, rows = read_weights(sources / place, f"The weights deployed at {place}"), drawn_rows(model.seed)
        if place == weights:
            # They stand where the build puts its output: it leaves them as they are, or the next build would miss them.
            (out / weights).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(sources / place, out / weights)
        else:
            write_weights(network, out / weights, by_build=True)
    graph, golden = f"onnx/{model.model.replace('/', '_')}.onnx", f"goldens/{bundle.name}.npz"
    draft = write_graph(network, rows, model.seed, out, graph, golden)
    return Export((draft,), golden, (weights,))


def write_graph(network: BoundaryRegressor, rows: TrainingData, seed: int, out: Path, graph: str, golden: str) -> Draft:
    """Write the network's ONNX graph and its goldens, made from the features of `rows`, to those paths below `out`."""
    example = {name: torch.from_numpy(array) for name, array in golden_inputs(rows, TRACED_BATCH, seed).items()}
    dynamic_axes = {name: {0: "batch"} for name in (*INPUTS, OUTPUT)}
    inputs, outputs, beside = export_onnx(network, example, [OUTPUT], dynamic_axes, out / graph)
    goldens.write(out / golden, [_case(network, golden_inputs(rows, size, seed)) for size in GOLDEN_BATCHES])
    return Draft(
        path=graph,
        role=ROLE,
        inputs=inputs,
        outputs=outputs,
        tools=tool_versions("onnx", "torch"),
        external_data=tuple(str(Path(graph).with_name(name)) for name in beside),
    )


def drawn_rows(seed: int) -> TrainingData:
    """Rows for the goldens of weights whose training data is not known.

    Vectors of CLIP's size, each image nearer to its text or further from it, so that the cosines differ as they do in data.
    """
    # RandomState and not a Generator: its stream is frozen, the same in every version of NumPy.
    state, count = np.random.RandomState(seed), max(GOLDEN_BATCHES)
    text = state.standard_normal((count, FEATURE_DIMENSION))

    def images() -> Float32:
        near = state.uniform(0, 0.5, (count, 1)) * text
        return (0.5 * (state.standard_normal((count, FEATURE_DIMENSION)) + near)).astype(np.float32)

    segments = np.tile(np.array([[0, 1]], dtype=np.float32), (count, 1))
    names = tuple(f"drawn-{i}" for i in range(count))
    return TrainingData(names, names, (0.5 * text).astype(np.float32), images(), images(), segments, segments)


def golden_inputs(data: TrainingData, size: int, seed: int) -> dict[str, Float32]:
    """Inputs of batch `size`: the features of `data`'s rows in turn, with drawn segments, the first from 0 s on."""
    rows = data.take([i % len(data) for i in range(size)])
    generator = random.Random(f"{seed}/{size}")
    segments = np.empty((size, 2), dtype=np.float32)
    for i in range(size):
        start = generator.uniform(0, GOLDEN_LATEST_START) if i else 0.0
        segments[i] = start, start + generator.uniform(GOLDEN_SHORTEST, GOLDEN_LONGEST)
    features = (rows.text_features, rows.start_image_features, rows.end_image_features)
    return dict(zip(INPUTS, (*features, segments), strict=True))


def _case(network: BoundaryRegressor, inputs: dict[str, Float32]) -> goldens.Case:
    double = copy.deepcopy(network).double()
    with torch.inference_mode():
        output = double(*(torch.from_numpy(array).double() for array in inputs.values())).numpy()
    return goldens.Case(ROLE, f"batch-{len(output)}", dict(inputs), goldens.as_float32({OUTPUT: output}))
