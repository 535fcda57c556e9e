"""Pulling out of a store: what comes, what does not come again, and what is refused. Registries are in tests/registry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from modelbake import manifest
from modelbake.cli.main import run
from modelbake.digests import Digests
from modelbake.errors import IntegrityError, UnknownNameError
from modelbake.files import sha256_of
from modelbake.manifest import BundleEntry, Manifest
from modelbake.oci import layer
from modelbake.oci.blob import of_bytes
from modelbake.oci.model import (
    IMAGE_CONFIG,
    IMAGE_MANIFEST,
    LAYER_TAR,
    Descriptor,
    ImageManifest,
    Platform,
    descriptor_of,
    encode,
)
from modelbake.oci.pack import image_config, manifest_layer, pack
from modelbake.oci.pull import GATHERING, Wanted, look, pull
from modelbake.oci.store import Store
from modelbake.oci.transfer import Moved, send
from tests.unit.oci.test_pack import fixed_entry

TOKENIZER = "tokenizers/fixed/tokenizer.json"


@pytest.fixture
def entry(tmp_path: Path) -> BundleEntry:
    return fixed_entry(tmp_path / "made")


@pytest.fixture
def store(tmp_path: Path, entry: BundleEntry) -> Store:
    packed = pack(tmp_path / "made", entry, Digests(tmp_path))
    store = Store(tmp_path / "store")
    with store.adding():
        send([*packed.layers, *packed.documents], store)
        store.tag("fixed", packed.image)
    return store


def bring(store: Store, to: Path, wanted: Wanted | None = None, name: str = "fixed") -> Moved:
    (found,) = look(store, store.resolve(name))
    return pull(store, found, wanted or Wanted(), to, Digests(to.parent))


def image_of(store: Store, name: str, entry: BundleEntry, layers: list[Descriptor]) -> None:
    """An image with these layers and a models manifest of that entry."""
    last = manifest_layer(Manifest(manifest.SCHEMA_VERSION, (entry,)))
    listed = (*layers, last.descriptor)
    config = encode(image_config(Platform("amd64", "linux"), listed, {}))
    described = descriptor_of(config, IMAGE_CONFIG)
    document = encode(ImageManifest(2, described, listed, IMAGE_MANIFEST))
    top = descriptor_of(document, IMAGE_MANIFEST)
    with store.adding():
        for blob in (last, of_bytes(config, described), of_bytes(document, top)):
            store.add(blob)
        store.tag(name, top)


def layers_of(store: Store) -> list[Descriptor]:
    (found,) = look(store, store.resolve("fixed"))
    return list(found.layers.values())


def test_every_file_comes_and_the_manifest_names_it(store: Store, entry: BundleEntry, tmp_path: Path) -> None:
    to = tmp_path / "models"
    moved = bring(store, to)
    assert manifest.read(to).bundle(entry.name) == entry
    assert all(sha256_of(to / ref.path) == ref.sha256 for ref in entry.files)
    assert moved.sent == moved.total > 0
    there = {path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file()}
    assert there == {ref.path for ref in entry.files} | {manifest.MANIFEST_NAME}


def test_a_second_pull_moves_and_reads_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bring(store, tmp_path / "models")
    hashed: list[Path] = []
    monkeypatch.setattr("modelbake.digests.sha256_of", lambda path: hashed.append(path) or sha256_of(path))
    assert bring(store, tmp_path / "models").sent == 0
    assert hashed == []


@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x" * path.stat().st_size)]
)
def test_a_file_that_changed_comes_again_alone(
    store: Store, entry: BundleEntry, tmp_path: Path, damage: object
) -> None:
    to = tmp_path / "models"
    bring(store, to)
    assert callable(damage)
    damage(to / TOKENIZER)
    moved = bring(store, to)
    size = next(ref.size for ref in entry.files if ref.path == TOKENIZER)
    assert (moved.sent, moved.sent_blobs) == (layer.length(f"models/{TOKENIZER}", size), 1)
    assert all(sha256_of(to / ref.path) == ref.sha256 for ref in entry.files)


def test_a_file_of_other_bytes_than_the_manifest_lists_is_refused(
    store: Store, entry: BundleEntry, tmp_path: Path
) -> None:
    files = tuple(replace(ref, sha256="0" * 64) if ref.path == TOKENIZER else ref for ref in entry.files)
    lie = replace(entry, files=files, digest=manifest.bundle_digest(files))
    image_of(store, "lie", lie, layers_of(store))
    with pytest.raises(IntegrityError, match=TOKENIZER):
        bring(store, tmp_path / "models", name="lie")
    assert not (tmp_path / "models" / manifest.MANIFEST_NAME).exists()


def test_a_layer_with_a_second_file_behind_the_first_is_refused(
    store: Store, entry: BundleEntry, tmp_path: Path
) -> None:
    old = next(one for one in layers_of(store) if (one.annotations or {}).get("io.modelbake.path") == TOKENIZER)
    data = bytearray(b"".join(store.blob(old).chunks()))
    data[-1024:] = layer.head("models/evil", 0)[-512:] + bytes(512)
    new = descriptor_of(bytes(data), LAYER_TAR, annotations=old.annotations)
    with store.adding():
        store.add(of_bytes(bytes(data), new))
    image_of(store, "evil", entry, [new if one == old else one for one in layers_of(store)])
    with pytest.raises(IntegrityError, match="another file, or several"):
        bring(store, tmp_path / "models", name="evil")
    assert not (tmp_path / "models" / "evil").exists()


def test_a_blob_that_rotted_in_the_store_is_refused_and_the_rest_is_kept(
    store: Store, entry: BundleEntry, tmp_path: Path
) -> None:
    to = tmp_path / "models"
    blob = store.path(
        next(one for one in layers_of(store) if (one.annotations or {}).get("io.modelbake.path") == TOKENIZER)
    )
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1600] + bytes([whole[-1600] ^ 1]) + whole[-1599:])
    with pytest.raises(IntegrityError, match="store verify"):
        bring(store, to)
    assert not (to / manifest.MANIFEST_NAME).exists()
    blob.write_bytes(whole)
    moved = bring(store, to)
    assert moved.sent < moved.total
    assert all(sha256_of(to / ref.path) == ref.sha256 for ref in entry.files)
    assert not (to / GATHERING).exists()


def test_an_artifact_that_the_bundle_lacks_is_named_with_those_it_has(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="it has: text_encoder fp32"):
        bring(store, tmp_path / "models", Wanted(precision="int4"))


def test_an_image_without_bundles_is_no_bundle(store: Store, tmp_path: Path) -> None:
    config = encode(image_config(Platform("amd64", "linux"), (), {}))
    described = descriptor_of(config, IMAGE_CONFIG)
    document = encode(ImageManifest(2, described, (), IMAGE_MANIFEST))
    top = descriptor_of(document, IMAGE_MANIFEST)
    with store.adding():
        send([of_bytes(config, described), of_bytes(document, top)], store)
        store.tag("empty", top)
    with pytest.raises(IntegrityError, match="holds no bundle"):
        look(store, store.resolve("empty"))


def test_what_an_earlier_pull_left_under_a_layers_digest_is_not_taken_at_its_name(
    store: Store, entry: BundleEntry, tmp_path: Path
) -> None:
    to = tmp_path / "models"
    (to / GATHERING).mkdir(parents=True)
    for ref, one in zip(entry.files, layers_of(store), strict=True):
        # Such as another image's pull, which was cut, checked against that image's own manifest.
        (to / GATHERING / one.hex).write_bytes(b"x" * ref.size)
    moved = bring(store, to)
    assert all(sha256_of(to / ref.path) == ref.sha256 for ref in entry.files)
    assert moved.sent == moved.total


def test_what_an_earlier_pull_left_whole_is_not_brought_again(store: Store, entry: BundleEntry, tmp_path: Path) -> None:
    to = tmp_path / "models"
    (to / GATHERING).mkdir(parents=True)
    for ref, one in zip(entry.files, layers_of(store), strict=True):
        (to / GATHERING / one.hex).write_bytes((tmp_path / "made" / ref.path).read_bytes())
    assert bring(store, to).sent == 0
    assert all(sha256_of(to / ref.path) == ref.sha256 for ref in entry.files)


def test_one_layer_for_two_files_is_refused(store: Store, entry: BundleEntry, tmp_path: Path) -> None:
    size = next(ref.size for ref in entry.files if ref.path == TOKENIZER)
    other = f"{TOKENIZER[:-1]}m"
    more = (*entry.files, replace(entry.files[0], path=other, size=size, sha256="0" * 64))
    twice = replace(entry, files=more, digest=manifest.bundle_digest(more))
    layers = layers_of(store)
    same = next(one for one in layers if (one.annotations or {}).get("io.modelbake.path") == TOKENIZER)
    layers.append(replace(same, annotations={"io.modelbake.path": other}))
    image_of(store, "twice", twice, layers)
    with pytest.raises(IntegrityError, match="one layer for two files"):
        look(store, store.resolve("twice"))


def test_a_pull_that_meets_another_writer_of_the_folder_ends_well(
    store: Store, entry: BundleEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelbake import install

    to = tmp_path / "models"
    bring(store, to)
    (to / entry.files[0].path).unlink()

    def met(models: Path, *more: object) -> None:
        # Between the pull's look and its installing, a build took one file away and brought another.
        (models / TOKENIZER).unlink()
        (models / entry.files[0].path).write_bytes((tmp_path / "made" / entry.files[0].path).read_bytes())
        install.place(models, *more)  # type: ignore[arg-type]
        (models / TOKENIZER).unlink()

    monkeypatch.setattr("modelbake.oci.pull.install", met)
    bring(store, to)
    monkeypatch.undo()
    bring(store, to)
    assert all(sha256_of(to / ref.path) == ref.sha256 for ref in entry.files)


def test_the_working_folder_can_be_pulled_into(
    store: Store, entry: BundleEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (found,) = look(store, store.resolve("fixed"))
    pull(store, found, Wanted(), Path("."), Digests(tmp_path))
    assert manifest.read(folder).bundle(entry.name) == entry


def test_inspect_shows_bundles_artifacts_and_layers_without_bringing_them(
    store: Store, entry: BundleEntry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELBAKE_STORE", str(store.folder))
    assert run(["inspect", "store:fixed", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["digest"] == store.resolve("fixed").digest
    assert [bundle["name"] for bundle in found["bundles"]] == [entry.name]
    assert {layer["path"] for layer in found["layers"]} == {ref.path for ref in entry.files} | {None}
    assert run(["inspect", "store:fixed"]) == 0
    assert entry.artifacts[0].precision in capsys.readouterr().out
    assert run(["inspect", "store:none"]) == 3
