"""The search for secrets finds them wherever they could be: a check of the check."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.images import marks

MARK = "mark-5b1c9e-secret"


def archive(path: Path, layer: bytes, config: dict[str, object] | None = None) -> Path:
    """An OCI archive with one layer."""
    blobs = {}

    def blob(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data)}

    described = {"config": blob(json.dumps(config or {}).encode()), "layers": [blob(layer)]}
    index = {"manifests": [blob(json.dumps(described).encode())]}
    with tarfile.open(path, "w") as tar:
        for name, data in {**blobs, "index.json": json.dumps(index).encode()}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def layer(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("inside", data)
    return buffer.getvalue()


SECRET = f"password = {MARK}\n".encode()
# Across the border of two pieces that are read.
ACROSS = b"x" * (marks.CHUNK - 512 - 5) + MARK.encode()


@pytest.mark.parametrize(
    "planted",
    [
        layer("etc/pip.conf", SECRET),
        gzip.compress(layer("etc/pip.conf", SECRET)),
        layer("root/cache/http", b"Authorization: Basic " + base64.b64encode(f"user:{MARK}".encode())),
        layer("a/log.gz", gzip.compress(SECRET)),
        layer("a/some.whl", zipped(SECRET)),
        layer("a/goldens.npz", zipped(SECRET)),
        layer(f"home/{MARK}", b""),
        layer("big", ACROSS),
    ],
    ids=["file", "gzip-layer", "base64", "gz-file", "wheel", "npz", "name", "across-pieces"],
)
def test_a_mark_in_a_layer_is_found(tmp_path: Path, planted: bytes) -> None:
    path = archive(tmp_path / "image.tar", planted)

    (found,) = {line.rpartition(": ")[2] for line in marks.find(marks.streams(path), [MARK, "another"])}
    assert found == MARK


@pytest.mark.parametrize(
    "config",
    [
        {"history": [{"created_by": f"ARG TOKEN={MARK}"}]},
        {"config": {"Env": [f"HF_TOKEN={MARK}"]}},
        {"config": {"Labels": {"source": f"https://user:{MARK}@host"}}},
    ],
    ids=["history", "environment", "label"],
)
def test_a_mark_in_the_configuration_is_found(tmp_path: Path, config: dict[str, object]) -> None:
    path = archive(tmp_path / "image.tar", layer("a", b"b"), config)

    assert marks.find(marks.streams(path), [MARK])


@pytest.mark.parametrize("offset", range(6))
def test_a_mark_is_found_at_every_offset_of_base64(offset: int) -> None:
    text = base64.b64encode(b"u" * offset + MARK.encode() + b"@host")

    assert marks.find([("text", io.BytesIO(text))], [MARK])


def test_nothing_is_found_where_nothing_is_planted(tmp_path: Path) -> None:
    path = archive(tmp_path / "image.tar", layer("etc/passwd", b"root:x:0:0"), {"config": {"Env": ["PATH=/bin"]}})

    assert marks.find(marks.streams(path), [MARK]) == []
