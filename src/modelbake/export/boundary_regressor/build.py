"""From the bundle's training data to its files: trained weights, the ONNX graph, and goldens."""

from __future__ import annotations

import copy
import io
import random
from pathlib import Path

import numpy as np
import torch

from modelbake import goldens
from modelbake.bundle import BoundaryRegressorModel, Bundle, safe_relative_path
from modelbake.errors import UsageError
from modelbake.export.artifact import Draft, Export, export_onnx, tool_versions
from modelbake.export.boundary_regressor.data import Float32, TrainingData, read, split_by_video
from modelbake.export.boundary_regressor.model import BoundaryRegressor
from modelbake.export.boundary_regressor.train import train
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
    stem = model.model.replace("/", "_")
    data_path = sources / safe_relative_path(model.data, f"The bundle {bundle.name!r}, model.data,")

    split = split_by_video(read(data_path), model.seed, str(data_path))
    network = train(split, model.seed, model.epochs).network

    weights = f"regressor/{stem}_pretrained.pth"
    write_weights(network, out / weights)
    graph = f"onnx/{stem}.onnx"
    traced = golden_inputs(split.test, TRACED_BATCH, model.seed)
    example = {name: torch.from_numpy(array) for name, array in traced.items()}
    dynamic_axes = {name: {0: "batch"} for name in (*INPUTS, OUTPUT)}
    inputs, outputs, beside = export_onnx(network, example, [OUTPUT], dynamic_axes, out / graph)
    golden = f"goldens/{bundle.name}.npz"
    cases = [_case(network, golden_inputs(split.test, size, model.seed)) for size in GOLDEN_BATCHES]
    goldens.write(out / golden, cases)
    draft = Draft(
        path=graph,
        role=ROLE,
        inputs=inputs,
        outputs=outputs,
        tools=tool_versions("onnx", "torch"),
        external_data=tuple(f"onnx/{name}" for name in beside),
    )
    return Export((draft,), golden, (weights,))


def write_weights(network: BoundaryRegressor, path: Path) -> None:
    """Write the state dict to `path` for torch.load(weights_only=True): same weights, same bytes, whatever the name."""
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    # A path's stem would become the name of the archive's inner folder; a buffer has none.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


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
