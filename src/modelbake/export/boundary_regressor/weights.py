"""The regressor's weights as files: state dicts for torch.load(weights_only=True), safetensors, and reading what others wrote."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelbake import deployment
from modelbake.errors import IntegrityError, RefusedError
from modelbake.export.boundary_regressor.model import BoundaryRegressor

_ADVICE = (
    "Put a state dict there that models/regressor/train_boundary_regressor.py wrote, or take the file away to have the "
    "network trained on the bundle's data."
)


def write_weights(network: BoundaryRegressor, path: Path, by_build: bool = False) -> None:
    """Write the state dict to `path` for torch.load(weights_only=True): same weights, same bytes, whatever the name.

    `by_build` marks the file as a build's own output, which no later build takes for weights that somebody deployed.
    """
    # A path's stem would become the name of the archive's inner folder; a buffer has none.
    buffer = io.BytesIO()
    torch.save(_state(network), buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(deployment.mark(buffer.getvalue()) if by_build else buffer.getvalue())


def write_safetensors(network: BoundaryRegressor, path: Path) -> None:
    """Write the same tensors under the same names as safetensors."""
    from safetensors.torch import save

    path.write_bytes(save(_state(network)))


def read_weights(path: Path, shown: str) -> BoundaryRegressor:
    """The network (float32, eval mode) with the weights of a state dict that torch.save wrote; `shown` names it in messages.

    RefusedError for a pickle of anything else, which could run code when read; IntegrityError where the file is damaged or
    large beyond reason, or where names, shapes or values are not the network's.
    """
    state = _load(deployment.read(path), shown)
    network = BoundaryRegressor()
    expected = network.state_dict()
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _unfit(shown, f"expected a state dict (names and tensors), got {_description(state)}")
    missing, strange = sorted(expected.keys() - state.keys()), sorted(map(str, state.keys() - expected.keys()))
    if missing or strange:
        raise _unfit(shown, f"its tensors are not the network's: missing {missing}, unknown {strange}")
    for name, wanted in expected.items():
        found = state[name]
        if found.shape != wanted.shape or found.layout != torch.strided or not found.is_floating_point():
            raise _unfit(
                shown,
                f"{name}: expected floating-point numbers of the shape {list(wanted.shape)}, got {found.dtype} {list(found.shape)}",
            )
        values = found.detach().float()
        if not values.isfinite().all():
            raise _unfit(shown, f"{name}: expected finite float32 numbers")
        if name == "narrow_deviation" and not (values > 0).all():
            raise _unfit(shown, f"{name}: expected numbers above 0")
        expected[name] = values
    network.load_state_dict(expected)
    return network.eval()


def _state(network: BoundaryRegressor) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _load(data: bytes, shown: str) -> Any:
    if not data:
        raise _unfit(shown, "the file is empty")
    if not data.startswith(b"PK\3\4"):
        raise RefusedError(
            f"{shown} is no archive of torch.save. A bare pickle can run code when it is read; it was not read. {_ADVICE}"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise _unfit(shown, f"the file is damaged ({error})") from error
    # torch.save compresses nothing; what is compressed may be as large as it likes when unpacked.
    if any(member.compress_type != zipfile.ZIP_STORED or member.file_size > len(data) for member in members):
        raise RefusedError(
            f"{shown} is a compressed archive, which torch.save does not write; it was not read. {_ADVICE}"
        )
    if any(member.filename.endswith(("constants.pkl", ".py")) for member in members):
        raise RefusedError(f"{shown} is a TorchScript archive, which holds code; it was not read. {_ADVICE}")
    try:
        with warnings.catch_warnings():
            # What it warns of in a damaged file is told by the error that follows.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RefusedError(
            f"{shown} holds more than tensors, and reading it could run code; it was not read. {_ADVICE}"
        ) from error
    except Exception as error:
        # A damaged pickle or storage fails in as many ways as there are opcodes.
        raise _unfit(shown, f"the file is damaged ({error})") from error


def _description(state: Any) -> str:
    if not isinstance(state, dict):
        return type(state).__name__
    others = [f"{name!r}: {type(value).__name__}" for name, value in state.items() if not isinstance(value, Tensor)]
    return f"a dict with {', '.join(others[:3])}"


def _unfit(shown: str, problem: str) -> IntegrityError:
    return IntegrityError(f"{shown}: {problem}. {_ADVICE}")
