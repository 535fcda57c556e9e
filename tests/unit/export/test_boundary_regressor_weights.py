"""Weights that somebody deployed: what is taken, what is refused and with which exit code, and what a build makes of it."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from modelbake import deployment, goldens, parity
from modelbake.bundle import Bundle
from modelbake.catalog import Catalog
from modelbake.errors import IntegrityError, ModelbakeError, RefusedError
from modelbake.export.boundary_regressor import export
from modelbake.export.boundary_regressor.model import BoundaryRegressor
from modelbake.export.boundary_regressor.weights import read_weights, write_safetensors, write_weights

ROOT = Path(__file__).resolve().parents[3]
OUTPUT = "regressor/boundary_regressor_pretrained.pth"

State = dict[str, Any]


class Trap:
    """What would create a file, were it ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Catalog(ROOT / "bundles").get("boundary-regressor")


@pytest.fixture(scope="module")
def network() -> BoundaryRegressor:
    torch.manual_seed(3)
    return BoundaryRegressor().eval()


def saved(state: Any, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path, **options)
    return path


def same(one: BoundaryRegressor, other: BoundaryRegressor) -> bool:
    return all(torch.equal(a, other.state_dict()[name]) for name, a in one.state_dict().items())


def test_weights_come_back_as_they_were_written(network: BoundaryRegressor, tmp_path: Path) -> None:
    for by_build in (False, True):
        write_weights(network, tmp_path / "w.pth", by_build)
        assert same(read_weights(tmp_path / "w.pth", "w"), network)
        assert deployment.is_marked(tmp_path / "w.pth") == by_build


def test_safetensors_hold_the_same_tensors(network: BoundaryRegressor, tmp_path: Path) -> None:
    write_safetensors(network, tmp_path / "w.safetensors")
    loaded = load_file(tmp_path / "w.safetensors")
    assert loaded.keys() == network.state_dict().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_weights_of_another_floating_point_width_are_taken(
    network: BoundaryRegressor, tmp_path: Path, dtype: torch.dtype
) -> None:
    state = {name: tensor.to(dtype) for name, tensor in network.state_dict().items()}
    found = read_weights(saved(state, tmp_path / "w.pth"), "w").state_dict()
    assert all(torch.equal(found[name], tensor.float()) for name, tensor in state.items())


def test_an_ordered_dict_as_state_dict_gives_it_is_taken(network: BoundaryRegressor, tmp_path: Path) -> None:
    assert isinstance(network.state_dict(), OrderedDict)
    assert same(read_weights(saved(network.state_dict(), tmp_path / "w.pth"), "w"), network)


def trap_archive(path: Path, trap: Path) -> None:
    saved({"a": Trap(trap)}, path)


def bare_pickle(path: Path, trap: Path) -> None:
    path.write_bytes(pickle.dumps(Trap(trap)))


def old_pickle(path: Path, trap: Path) -> None:
    path.write_bytes(pickle.dumps(Trap(trap), protocol=0))


def legacy_archive(path: Path, trap: Path) -> None:
    saved({"a": Trap(trap)}, path, _use_new_zipfile_serialization=False)


def whole_module(path: Path, trap: Path) -> None:
    saved(BoundaryRegressor(), path)


def torchscript(path: Path, trap: Path) -> None:
    saved({"a": torch.zeros(1)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/code/__torch__.py", "x = 1")


def bomb(path: Path, trap: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)


@pytest.mark.parametrize(
    "write",
    [trap_archive, bare_pickle, old_pickle, legacy_archive, whole_module, torchscript, bomb],
    ids=lambda f: f.__name__,
)
def test_a_pickle_in_place_of_weights_is_refused_and_not_run(
    write: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    write(tmp_path / "w.pth", tmp_path / "trapped")
    with pytest.raises(RefusedError, match=r"models/boundary_regressor\.pth.*not read.*take the file away") as caught:
        read_weights(tmp_path / "w.pth", "models/boundary_regressor.pth")
    assert caught.value.exit_code == 8
    assert not (tmp_path / "trapped").exists()


def changed(**tensors: Any) -> Callable[[State], Any]:
    return lambda state: {**state, **tensors}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (changed(**{"last.bias": torch.zeros(3)}), r"last\.bias: expected floating-point numbers of the shape \[2\], got .* \[3\]"),
        (changed(**{"last.bias": torch.zeros(2, dtype=torch.int64)}), r"last\.bias: .* got torch\.int64"),
        (changed(**{"last.bias": torch.tensor([0.0, float("nan")])}), r"last\.bias: expected finite"),
        (changed(**{"last.bias": torch.tensor([0.0, 1e300], dtype=torch.float64)}), r"last\.bias: expected finite"),
        (changed(**{"last.bias": torch.zeros(2).to_sparse()}), r"last\.bias: expected floating-point"),
        (changed(narrow_deviation=torch.zeros(3)), "narrow_deviation: expected numbers above 0"),
        (changed(other=torch.zeros(1)), r"unknown \['other'\]"),
        (lambda state: {k: v for k, v in state.items() if k != "wide.weight"}, r"missing \['wide\.weight'\]"),
        (lambda state: {"state_dict": state, "epoch": 3}, "expected a state dict .* got a dict with 'state_dict': OrderedDict"),
        (lambda state: list(state.values()), "expected a state dict .* got list"),
        (lambda state: torch.zeros(10**12 // 10**12).expand(10**12), "expected a state dict .* got Tensor"),
    ],
)  # fmt: skip
def test_a_state_dict_of_another_network_is_an_integrity_error(
    network: BoundaryRegressor, tmp_path: Path, change: Callable[[State], Any], told: str
) -> None:
    path = saved(change(network.state_dict()), tmp_path / "w.pth")
    with pytest.raises(IntegrityError, match=told) as caught:
        read_weights(path, "w.pth")
    assert caught.value.exit_code == 5


@settings(max_examples=60, deadline=None)
@given(at=st.floats(0, 1), put=st.binary(min_size=1, max_size=6), cut=st.booleans())
def test_damaged_weights_are_read_or_refused_but_never_crash(
    tmp_path_factory: pytest.TempPathFactory, network: BoundaryRegressor, at: float, put: bytes, cut: bool
) -> None:
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    content = buffer.getvalue()
    # Half of the damage goes to the pickle and the archive's directory, which are small beside the tensors.
    place = int(at * len(content)) if put[0] % 2 else (int(at * 2000) if at < 0.5 else len(content) - int(at * 2000))
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    path.write_bytes(content[:place] if cut else content[:place] + put + content[place + len(put) :])
    try:
        read_weights(path, "damaged.pth")
    except ModelbakeError as error:
        assert error.exit_code in (5, 8)  # noqa: PT017 (either outcome is right)


@pytest.mark.parametrize("place", deployment.places("boundary_regressor"))
def test_a_build_exports_the_deployed_weights(
    bundle: Bundle, network: BoundaryRegressor, tmp_path: Path, place: str
) -> None:
    sources, out = tmp_path / "sources", tmp_path / "out"
    deployed = saved(network.state_dict(), sources / place)
    exported = export(bundle, sources, out)
    (draft,) = exported.drafts
    assert exported.extra_files == (OUTPUT,)
    assert same(read_weights(out / OUTPUT, OUTPUT), network)
    if place == OUTPUT:
        assert (out / OUTPUT).read_bytes() == deployed.read_bytes()
    else:
        assert deployment.is_marked(out / OUTPUT)
    figures = parity.replay(out, draft, out / exported.goldens, bundle.gates.max_abs_diff)
    assert figures.cases == 3
    session = onnxruntime.InferenceSession(str(out / draft.path), providers=["CPUExecutionProvider"])
    for case in goldens.read(out / exported.goldens):
        inputs = [
            torch.from_numpy(case.inputs[name])
            for name in ("text_features", "start_image_features", "end_image_features", "segment")
        ]
        with torch.inference_mode():
            expected = network(*inputs).numpy()
        np.testing.assert_allclose(session.run(None, case.inputs)[0], expected, atol=1e-5)
