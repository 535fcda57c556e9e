"""Each patch of coremltools: what it mends still breaks without it, and is mended with it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from modelbake.coreml.runner import Runner
from modelbake.export.coreml import encoders, patches
from modelbake.export.coreml.convert import Input, convert
from tests.unit.export import coreml_tiny


class Positions(torch.nn.Module):
    """Asks for a length, as every table of positions does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(64.0).reshape(16, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.table[: x.shape[1]]


def convert_with_coremltools_alone() -> None:
    import coremltools as ct

    traced = torch.jit.trace(Positions().eval(), torch.zeros(1, 8, 4))
    ct.convert(traced, inputs=[ct.TensorType(name="x", shape=(1, 8, 4))], skip_model_load=True)


def test_scalar_casts_is_needed_still_numpy_refuses_arrays_of_one_number() -> None:
    with pytest.raises(TypeError, match="0-dimensional"):
        convert_with_coremltools_alone()


def test_scalar_casts_mends_it_and_is_undone(tmp_path: Path) -> None:
    from coremltools.converters.mil.frontend.torch import ops

    before = ops._cast
    path = tmp_path / "positions.mlpackage"
    convert(Positions().eval(), (Input("x", "float32", ((1, 8, 4),)),), "y", path)
    assert ops._cast is before
    x = np.random.default_rng(0).standard_normal((1, 8, 4)).astype(np.float32)
    np.testing.assert_array_equal(Runner(path).run({"x": x})["y"], x + np.arange(32, dtype=np.float32).reshape(8, 4))


def test_no_bars_is_needed_still_coremltools_shows_bars_unasked(capfd: pytest.CaptureFixture[str]) -> None:
    with patches.scalar_casts(), patches.quiet():
        convert_with_coremltools_alone()
    assert "Running MIL" in capfd.readouterr().err


def test_quiet_is_needed_still_coremltools_warns_of_its_own_casts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoders.text_encoder(coreml_tiny.sentence_model(tmp_path), (16,))
    monkeypatch.setattr(patches, "quiet", contextlib.nullcontext)
    with pytest.warns(RuntimeWarning, match="overflow encountered in cast"):
        convert(encoder.module, encoder.inputs, encoder.output, tmp_path / "loud.mlpackage", "fp16")


def test_conversion_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    convert(Positions().eval(), (Input("x", "float32", ((1, 8, 4),)),), "y", tmp_path / "a.mlpackage", "fp16")
    assert capfd.readouterr() == ("", "")
