"""Verifying a models folder: every file hashed, every golden replayed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from modelbake import goldens, manifest
from modelbake.errors import IntegrityError, MachineError, ParityError, UnknownNameError
from modelbake.files import file_ref
from modelbake.manifest import Manifest
from modelbake.verify import verify
from tests.unit import tiny

FILES = [
    "goldens/tiny-image.npz",
    "goldens/tiny-text.npz",
    "onnx/tiny-image.onnx",
    "onnx/tiny-text.onnx",
    "tokenizers/tiny-text/tokenizer.json",
]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    tiny.models_folder(tmp_path)
    return tmp_path


def test_a_whole_folder_gives_its_figures_by_bundle_and_artifact(models: Path) -> None:
    figures = verify(models)
    assert {name: list(artifacts) for name, artifacts in figures.items()} == {
        "tiny-image": ["onnx/tiny-image.onnx"],
        "tiny-text": ["onnx/tiny-text.onnx"],
    }
    for artifacts in figures.values():
        for parity in artifacts.values():
            assert parity.max_abs_diff <= parity.gate == tiny.GATE


def test_only_the_bundles_named_are_verified(models: Path) -> None:
    (models / "onnx" / "tiny-image.onnx").unlink()
    assert list(verify(models, ("tiny-text",))) == ["tiny-text"]
    with pytest.raises(UnknownNameError):
        verify(models, ("tiny-text", "other"))


@pytest.mark.parametrize("path", FILES)
def test_any_missing_file_is_named(models: Path, path: str) -> None:
    (models / path).unlink()
    with pytest.raises(IntegrityError, match=f"{path} is missing"):
        verify(models)


@pytest.mark.parametrize("path", FILES)
def test_any_changed_bit_is_found_and_named(models: Path, path: str) -> None:
    data = bytearray((models / path).read_bytes())
    data[len(data) // 2] ^= 1
    (models / path).write_bytes(data)
    with pytest.raises(IntegrityError, match=f"{path} is not the file that the manifest lists") as caught:
        verify(models)
    assert caught.value.exit_code == 5


def test_a_manifest_whose_files_were_exchanged_is_found(models: Path) -> None:
    path = models / manifest.MANIFEST_NAME
    document = json.loads(path.read_bytes())
    document["bundles"][0]["files"].pop()
    document["bundles"][0]["digest"] = "0" * 64
    path.write_text(json.dumps(document))
    with pytest.raises(IntegrityError):
        verify(models)


def test_a_digest_that_is_not_that_of_the_files_is_found(models: Path) -> None:
    found = manifest.read(models)
    manifest.write(models, Manifest(1, tuple(replace(entry, digest="0" * 64) for entry in found.bundles)))
    with pytest.raises(IntegrityError, match="digest of tiny-image is not that of its list"):
        verify(models)


def test_an_artifact_that_misses_its_gate_is_a_parity_error_though_every_digest_is_right(models: Path) -> None:
    entry = manifest.read(models).bundle("tiny-text")
    (case,) = goldens.read(models / entry.goldens.path)
    case.outputs["sentence_embedding"] = np.flip(case.outputs["sentence_embedding"], axis=1)
    goldens.write(models / entry.goldens.path, [case])
    files = tuple(file_ref(models, ref.path) for ref in entry.files)
    changed = replace(
        entry, goldens=file_ref(models, entry.goldens.path), files=files, digest=manifest.bundle_digest(files)
    )
    manifest.write(models, Manifest(1, (changed,)))
    with pytest.raises(ParityError, match=r"onnx/tiny-text\.onnx"):
        verify(models)


def test_a_folder_without_models_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(MachineError):
        verify(tmp_path)
