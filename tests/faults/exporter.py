"""A family of models that exports in milliseconds: real safetensors in; a real graph, goldens and a further file out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from modelbake import goldens
from modelbake.bundle import Bundle
from modelbake.export.artifact import Draft, Export
from tests.unit import tiny

WIDTH = 256
WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def source_files(seed: int) -> dict[str, bytes]:
    """The files of a model: weights of 256 KB, and a small one."""
    weights = np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)).astype(np.float32) / WIDTH
    return {WEIGHTS: save({"weights": weights}), CONFIG: b'{"width": %d, "seed": %d}' % (WIDTH, seed)}


def sample(bundle: Bundle, folder: Path, seed: int) -> None:
    for path, content in source_files(seed).items():
        (folder / path).write_bytes(content)


def export(bundle: Bundle, sources: Path, out: Path) -> Export:
    weights = load_file(sources / WEIGHTS)["weights"]
    graph, golden, extra = f"onnx/{bundle.name}.onnx", f"goldens/{bundle.name}.npz", f"clip/{bundle.name}.json"
    tiny.matrix_graph(out / graph, weights)
    x = np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)
    y = (x.astype(np.float64) @ weights.astype(np.float64)).astype(np.float32)
    goldens.write(out / golden, [goldens.Case("text_encoder", "one", {"x": x}, {"y": y})])
    (out / extra).parent.mkdir()
    (out / extra).write_bytes((sources / CONFIG).read_bytes())
    return Export((Draft(graph, "text_encoder", (), (), {"tool": "1"}),), golden, (extra,))
