"""One layer a model file, in one format, with one digest: in bundles, in search, and at every build."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelbake.manifest import MANIFEST_NAME, FileRef, Manifest, decode
from tests.images import baking
from tests.images.conftest import BUNDLES
from tests.images.engine import inspect
from tests.images.oci import Archive, ustar_frame

SMALL = "minilm-l6-v2"
PLAIN = "application/vnd.oci.image.layer.v1.tar"


def model_layers(archive: Archive) -> dict[str, str]:
    """The file in each model layer, by path below models/, to the layer's digest; base layers have many files."""
    found = {}
    for digest, entries in archive.entries.items():
        if all(entry.name.split("/")[0] == "models" for entry in entries):
            (path,) = (entry.name for entry in entries if not entry.isdir())
            found[path.removeprefix("models/")] = digest
    return found


def refs(manifest: Manifest) -> dict[str, FileRef]:
    return {ref.path: ref for entry in manifest.bundles for ref in entry.files}


@pytest.mark.parametrize("name", BUNDLES)
def test_every_file_of_a_bundle_is_one_layer(archives: dict[str, Archive], manifest: Manifest, name: str) -> None:
    layers = model_layers(archives[f"bundle-{name}"])

    assert len(layers) == len(archives[f"bundle-{name}"].layers)
    assert set(layers) == {MANIFEST_NAME, *(ref.path for ref in manifest.bundle(name).files)}


@pytest.mark.parametrize("name", BUNDLES)
def test_search_has_the_very_layers_of_the_bundles(archives: dict[str, Archive], name: str) -> None:
    mine, search = model_layers(archives[f"bundle-{name}"]), model_layers(archives["search"])

    del mine[MANIFEST_NAME]
    assert mine
    assert {path: search.get(path) for path in mine} == mine


def test_search_has_no_layer_for_models_but_the_bundles(archives: dict[str, Archive], manifest: Manifest) -> None:
    assert set(model_layers(archives["search"])) == {MANIFEST_NAME, *refs(manifest)}


@pytest.mark.parametrize("name", ["search", *(f"bundle-{name}" for name in BUNDLES)])
def test_the_images_in_the_engine_have_the_layers_of_the_exports(archives: dict[str, Archive], name: str) -> None:
    archive = archives[name]

    assert inspect(name)["RootFS"]["Layers"] == archive.layers == archive.config["rootfs"]["diff_ids"]
    assert {layer["mediaType"] for layer in archive.manifest["layers"]} == {PLAIN}


def test_a_layer_is_byte_for_byte_what_a_ustar_writer_makes(archives: dict[str, Archive], manifest: Manifest) -> None:
    """The writer frames the file whose digest the manifest gives: so any other tool can make these blobs too."""
    archive, known = archives["search"], refs(manifest)
    layers = model_layers(archive)
    del layers[MANIFEST_NAME]
    for path, digest in layers.items():
        blob, ref = memoryview(archive.blob(digest)), known[path]
        before, after = ustar_frame(f"models/{path}", ref.size)
        assert bytes(blob[: len(before)]) == before, path
        assert hashlib.sha256(blob[len(before) : len(before) + ref.size]).hexdigest() == ref.sha256, path
        assert bytes(blob[len(before) + ref.size :]) == after, path


def test_the_ustar_writer_of_these_tests_writes_what_tar_reads(tmp_path: Path) -> None:
    """A check of the check, against Python's own reader."""
    before, after = ustar_frame("models/onnx/m.bin", 5)
    (tmp_path / "t.tar").write_bytes(before + b"12345" + after)

    with tarfile.open(tmp_path / "t.tar") as tar:
        found = [(m.name, m.mode, m.uid, m.gid, m.mtime, m.uname, m.size) for m in tar]

    assert found == [
        ("models", 0o755, 0, 0, 0, "", 0),
        ("models/onnx", 0o755, 0, 0, 0, "", 0),
        ("models/onnx/m.bin", 0o644, 0, 0, 0, "", 5),
    ]


@pytest.fixture(scope="module")
def built_anew(folder: Path) -> Iterator[list[Archive]]:
    """Two builds of the small bundle whose every step was run, none taken from the cache."""
    opened = []
    for index in range(2):
        path = folder / f"anew-{index}.tar"
        events = baking.bake({f"bundle-{SMALL}": baking.to_archive(path)}, anew=[f"trees-{SMALL}"])
        ran = " ".join(baking.steps_run(events))
        for step in (" fetch ", " build ", " verify ", "modelbake layers"):
            assert step in ran, f"{step} was taken from the cache"
        opened.append(Archive(path))
    yield opened
    for archive in opened:
        archive.__exit__(None, None, None)


@pytest.mark.builds
def test_builds_from_nothing_give_the_same_layers_and_manifest(
    built_anew: list[Archive], archives: dict[str, Archive]
) -> None:
    first, second = built_anew

    assert first.layers == second.layers == archives[f"bundle-{SMALL}"].layers
    manifests = [archive.file(archive.layers[-1], f"models/{MANIFEST_NAME}") for archive in built_anew]
    assert manifests[0] == manifests[1]
    assert decode(manifests[0], "the built one").bundles[0].name == SMALL


@pytest.mark.builds
def test_builds_from_nothing_give_the_same_image_digest(
    built_anew: list[Archive], archives: dict[str, Archive]
) -> None:
    first, second = built_anew

    assert first.digest == second.digest == archives[f"bundle-{SMALL}"].digest
