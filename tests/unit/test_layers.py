"""Models folders laid out for image layers: one plain tree a file, the same whoever makes it and whenever."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from modelbake import layers, manifest
from modelbake.errors import IntegrityError, MachineError, RefusedError, UsageError
from modelbake.files import sha256_of
from modelbake.layers import lay_out
from modelbake.manifest import Manifest
from tests.unit import tiny

TEXT_FILES = [
    "goldens/tiny-text.npz",
    "onnx/tiny-text.onnx",
    "tokenizers/tiny-text/tokenizer.json",
    "model_manifest.json",
]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A models folder with the text bundle."""
    manifest.write(_made(tmp_path / "text"), Manifest(1, (tiny.text_bundle(tmp_path / "text"),)))
    return tmp_path / "text"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A models folder with the image bundle."""
    manifest.write(_made(tmp_path / "image"), Manifest(1, (tiny.image_bundle(tmp_path / "image"),)))
    return tmp_path / "image"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_each_tree_holds_one_file_of_the_same_bytes_and_the_last_the_manifest(text: Path, tmp_path: Path) -> None:
    assert lay_out([text], tmp_path / "out", 4) == TEXT_FILES
    for index, path in enumerate(TEXT_FILES, 1):
        tree = tmp_path / "out" / f"{index:02}"
        assert [p for p in tree.rglob("*") if not p.is_dir()] == [tree / "models" / path]
        assert sha256_of(tree / "models" / path) == sha256_of(text / path)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["01", "02", "03", "04"]


def test_modes_and_time_stamps_are_the_same_whatever_those_of_the_sources(text: Path, tmp_path: Path) -> None:
    for path in text.rglob("*"):
        os.chmod(path, 0o700)
        os.utime(path, (1e9, 1e9))
    before = os.umask(0o077)
    try:
        lay_out([text], tmp_path / "out", 4)
    finally:
        os.umask(before)
    for path in (tmp_path / "out", *(tmp_path / "out").rglob("*")):
        found = path.lstat()
        assert found.st_mtime_ns == 0
        assert found.st_mode & 0o7777 == (0o755 if path.is_dir() else 0o644)
        assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())


def test_the_sources_stay_as_they_are(text: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in text.rglob("*")}
    contents = tiny.contents(text)
    lay_out([text], tmp_path / "out", 4)
    assert {path: path.stat().st_mtime_ns for path in text.rglob("*")} == before
    assert tiny.contents(text) == contents


def test_several_folders_come_with_one_manifest_of_all(text: Path, image: Path, tmp_path: Path) -> None:
    paths = lay_out([text, image], tmp_path / "out", 6)
    assert paths[:-1] == sorted(paths[:-1])
    merged = manifest.read(tmp_path / "out" / "06" / "models")
    assert [entry.name for entry in merged.bundles] == ["tiny-image", "tiny-text"]
    assert lay_out([image, text], tmp_path / "other", 6) == paths
    assert tiny.contents(tmp_path / "out") == tiny.contents(tmp_path / "other")


def test_a_file_that_two_bundles_share_is_laid_out_once(text: Path, tmp_path: Path) -> None:
    shutil.copytree(text, tmp_path / "copy")
    assert lay_out([text, tmp_path / "copy"], tmp_path / "out", 4) == TEXT_FILES


@pytest.mark.parametrize("count", [1, 3, 5])
def test_another_number_of_layers_is_an_error_that_says_both(text: Path, tmp_path: Path, count: int) -> None:
    with pytest.raises(
        IntegrityError, match=rf"There are 4 files to lay out, but the image copies {count}: .*docker-bake\.hcl"
    ):
        lay_out([text], tmp_path / "out", count)
    assert not (tmp_path / "out").exists()


def test_more_files_than_an_image_has_stages_for_are_an_error(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "MOST_LAYERS", 3)
    with pytest.raises(IntegrityError, match="4 layers are more than the 3 stages"):
        lay_out([text], tmp_path / "out", 4)
    assert not (tmp_path / "out").exists()


def test_the_stages_of_the_layered_image_are_as_many_as_the_code_says() -> None:
    dockerfile = Path(__file__).resolve().parents[2] / "images" / "layered" / "Dockerfile"
    assert len(re.findall(r"^FROM upto-.* AS upto-\d+$", dockerfile.read_text(), re.MULTILINE)) == layers.MOST_LAYERS


def test_a_missing_file_is_an_integrity_error(text: Path, tmp_path: Path) -> None:
    (text / "onnx" / "tiny-text.onnx").unlink()
    with pytest.raises(IntegrityError, match=r"tiny-text\.onnx is missing"):
        lay_out([text], tmp_path / "out", 4)


def test_a_changed_file_is_an_integrity_error(text: Path, tmp_path: Path) -> None:
    with (text / "onnx" / "tiny-text.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(IntegrityError, match=r"tiny-text\.onnx is not the file that the manifest lists") as caught:
        lay_out([text], tmp_path / "out", 4)
    assert caught.value.exit_code == 5


def test_a_link_is_refused_though_its_bytes_are_right(text: Path, tmp_path: Path) -> None:
    graph = text / "onnx" / "tiny-text.onnx"
    graph.rename(tmp_path / "elsewhere.onnx")
    graph.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(RefusedError, match=r"tiny-text\.onnx is a link") as caught:
        lay_out([text], tmp_path / "out", 4)
    assert caught.value.exit_code == 8


def test_two_bundles_with_different_files_of_one_path_are_an_error(text: Path, tmp_path: Path) -> None:
    other = _made(tmp_path / "other")
    manifest.write(other, Manifest(1, (tiny.text_bundle(other, seed=1),)))
    with pytest.raises(IntegrityError, match=r"tiny-text\.\w+ in .* and in .* are different files"):
        lay_out([text, other], tmp_path / "out", 4)


def test_a_folder_that_holds_something_is_left_alone(text: Path, tmp_path: Path) -> None:
    lay_out([text], tmp_path / "out", 4)
    before = tiny.contents(tmp_path / "out")
    with pytest.raises(UsageError, match="out is not empty"):
        lay_out([text], tmp_path / "out", 4)
    assert tiny.contents(tmp_path / "out") == before


def test_a_folder_without_a_manifest_cannot_be_laid_out(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="there are no models here"):
        lay_out([tmp_path], tmp_path / "out", 1)
