"""What could run code when it is read is refused; all else passes."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from modelbake.errors import RefusedError
from modelbake.sources.safety import refuse_pickle


def archive(files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


# torch.save writes this layout since version 1.6 (torch/serialization.py, _save).
TORCH = archive({"model/data.pkl": pickle.dumps({}, 2), "model/data/0": b"\0" * 16, "model/version": b"3\n"})
SAFETENSORS = len(b'{"a":{}}').to_bytes(8, "little") + b'{"a":{}}'

PICKLES = {f"protocol {protocol}": pickle.dumps({"a": [1.5]}, protocol) for protocol in range(2, 6)} | {
    # The magic number that torch.save wrote first before version 1.6.
    "old torch": pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2),
    "torch": TORCH,
    "torch, packed": archive({"archive/data.pkl": b"\x80\2.", "archive/version": b"3"}, zipfile.ZIP_DEFLATED),
    "torch, damaged list": TORCH[:-80] + b"\xff" * 40 + TORCH[-40:],
    "torch, no list": TORCH[:-60],
}

OTHERS = {
    "safetensors": SAFETENSORS,
    "a header of 128 bytes and more": b"\x80" + b"\0" * 7 + b" " * 128,
    "zip": archive({"a.npy": b"\x93NUMPY", "notes.txt": b"data.pkl"}),
    "json": b'{"dim": 2}',
    "empty": b"",
    "one byte": b"\x80",
    "no protocol": b"\x80\x06",
    "no zip": b"PK is not always a zip",
}


@pytest.mark.parametrize("kind", PICKLES)
def test_pickles_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(PICKLES[kind])
    with pytest.raises(RefusedError, match=r"weights\.bin of small .*pickle.*safetensors") as caught:
        refuse_pickle(path, "weights", "weights.bin of small")
    assert caught.value.exit_code == 8


@pytest.mark.parametrize("kind", OTHERS)
def test_other_files_pass(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(OTHERS[kind])
    refuse_pickle(path, "weights", "weights")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a/b.PT", "weights.pkl", "x.ckpt"])
def test_what_bears_a_pickles_name_is_refused_whatever_it_holds(tmp_path: Path, name: str) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"I1\n.")  # a pickle of protocol 0
    with pytest.raises(RefusedError, match="safetensors"):
        refuse_pickle(path, name, name)
