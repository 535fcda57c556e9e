"""Packed bundles: the same bytes whoever packs them and where, right bytes or none, and valid documents of both formats."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from msgspec.structs import replace

from modelbake import digests as digests_module
from modelbake import manifest
from modelbake.digests import Digests
from modelbake.errors import IntegrityError, RefusedError
from modelbake.files import file_ref, sha256_of
from modelbake.manifest import BundleEntry, Manifest, SourceRecord
from modelbake.oci import layer
from modelbake.oci.blob import Blob
from modelbake.oci.model import (
    IMAGE_CONFIG,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    LAYER_TAR,
    ImageIndex,
    ImageManifest,
    Platform,
    decode,
    digest_of,
)
from modelbake.oci.pack import MODELPACK_CONFIG, MODELPACK_MANIFEST, MODELPACK_PATH, PATH, Packed, pack
from modelbake.oci.place import reachable
from modelbake.oci.store import Store
from tests.unit import tiny

ROOT = Path(__file__).resolve().parents[3]
SCHEMA = next(
    (
        schema
        for folder in ROOT.parents
        if (schema := folder / "shared" / "data" / "modelpack" / "config-schema.json").is_file()
    ),
    None,
)
PLATFORMS = (Platform("amd64", "linux"), Platform("arm64", "linux", "v8"))


def fixed_entry(models: Path) -> BundleEntry:
    """A bundle whose every byte is written down here, so that its digests are the same on all machines."""
    for path, data in {
        "onnx/fixed.onnx": b"graph",
        "onnx/fixed.onnx_data": bytes(range(256)) * 5,
        "tokenizers/fixed/tokenizer.json": b"{}",
        "goldens/fixed.npz": b"goldens",
    }.items():
        (models / path).parent.mkdir(parents=True, exist_ok=True)
        (models / path).write_bytes(data)
    tensor = manifest.Tensor("x", "float32", ("batch", 2))
    graph = file_ref(models, "onnx/fixed.onnx")
    artifact = manifest.Artifact(
        graph.path,
        graph.sha256,
        graph.size,
        "onnx",
        "text_encoder",
        "fp32",
        (tensor,),
        (tensor,),
        {"onnx": "1"},
        external_data=(file_ref(models, "onnx/fixed.onnx_data"),),
        tokenizer=manifest.Tokenizer("tokenizer.json", "tokenizers/fixed/tokenizer.json", 8),
        parity=manifest.Parity(1e-6, 1e-5, 1),
    )
    entry = tiny.entry_of(
        models,
        "fixed",
        (artifact,),
        "goldens/fixed.npz",
        ("onnx/fixed.onnx_data", "tokenizers/fixed/tokenizer.json"),
    )
    return replace(entry, source=SourceRecord("hub", (), repository="owner/fixed", commit="0" * 40))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def entry(models: Path) -> BundleEntry:
    return fixed_entry(models)


@pytest.fixture
def digests(tmp_path: Path) -> Digests:
    return Digests(tmp_path / "digests")


@pytest.fixture
def packed(models: Path, entry: BundleEntry, digests: Digests) -> Packed:
    return pack(models, entry, digests)


def content(blob: Blob) -> bytes:
    return b"".join(blob.chunks())


def document(packed: Packed, digest: str) -> Any:
    (found,) = [content(blob) for blob in packed.documents if blob.descriptor.digest == digest]
    return json.loads(found)


# ---- the same digests ---------------------------------------------------------------------------------------------------


def test_the_digests_of_a_known_bundle(packed: Packed) -> None:
    """Written down: another machine, user, Python or year gives no other. A change of the format on purpose changes them."""
    assert packed.image.digest == "sha256:fe50cef09483d902af7980aa3dd2dd2c57441c59899e4784b794a934fdba4e93"
    assert packed.modelpack.digest == "sha256:65c6cb55033db8a53aab10d7321bab2148df10d6fc9137232424c033937854fb"


def test_packing_twice_gives_the_same(models: Path, entry: BundleEntry, digests: Digests, packed: Packed) -> None:
    again = pack(models, entry, digests)

    assert (again.image, again.modelpack) == (packed.image, packed.modelpack)
    assert [blob.descriptor for blob in again.layers] == [blob.descriptor for blob in packed.layers]
    assert [content(blob) for blob in again.documents] == [content(blob) for blob in packed.documents]


def test_another_folder_with_other_modes_and_times_gives_the_same(
    models: Path, entry: BundleEntry, packed: Packed, tmp_path: Path
) -> None:
    other = tmp_path / "of another name" / "m"
    shutil.copytree(models, other)
    for number, path in enumerate(sorted(other.rglob("*"))):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (number, number * 1e6))
    (other / "onnx" / "of another bundle").write_bytes(b"x")

    again = pack(other, entry, Digests(tmp_path / "other digests"))

    assert (again.image, again.modelpack) == (packed.image, packed.modelpack)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may look into; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_gives_the_same(packed: Packed, public: Path) -> None:
    entry = fixed_entry(public / "models")
    (public / "digests").mkdir()
    os.chown(public / "digests", 65534, 65534)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            os.umask(0o077)
            theirs = pack(public / "models", entry, Digests(public / "digests"))
            os.write(writing, f"{os.getuid()} {theirs.image.digest} {theirs.modelpack.digest}".encode())
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0

    assert told == f"65534 {packed.image.digest} {packed.modelpack.digest}"


def test_a_changed_byte_changes_one_layer_and_the_manifest_layer_alone(
    models: Path, packed: Packed, tmp_path: Path
) -> None:
    (models / "onnx" / "fixed.onnx_data").write_bytes(bytes(range(256)) * 4 + bytes(256))
    files = tuple(file_ref(models, ref.path) for ref in packed.entry.files)
    artifact = replace(packed.entry.artifacts[0], external_data=(file_ref(models, "onnx/fixed.onnx_data"),))
    changed = replace(packed.entry, files=files, artifacts=(artifact,), digest=manifest.bundle_digest(files))

    again = pack(models, changed, Digests(tmp_path / "other"))

    before = {blob.descriptor.annotations[PATH]: blob.descriptor.digest for blob in packed.layers}  # type: ignore[index]
    after = {blob.descriptor.annotations[PATH]: blob.descriptor.digest for blob in again.layers}  # type: ignore[index]
    assert {path for path in before if before[path] != after[path]} == {"onnx/fixed.onnx_data", "model_manifest.json"}


# ---- the right bytes ----------------------------------------------------------------------------------------------------


def test_every_blob_has_the_digest_and_size_that_it_says(packed: Packed) -> None:
    for blob in (*packed.layers, *packed.documents):
        data = content(blob)
        assert (digest_of(data), len(data)) == (blob.descriptor.digest, blob.descriptor.size)


def test_the_layers_hold_the_files_and_the_manifest_of_the_bundle(
    models: Path, entry: BundleEntry, packed: Packed
) -> None:
    found = {}
    for blob in packed.layers:
        data = content(blob)
        read = layer.read_head(data, "the layer", blob.descriptor.size)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            (member,) = [one for one in tar if not one.isdir()]
            file = tar.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
        assert read.path == member.name == f"models/{(blob.descriptor.annotations or {})[PATH]}"
        assert data[read.offset + read.size :] == layer.tail(read.size)

    assert manifest.decode(found.pop("models/model_manifest.json"), "it") == Manifest(1, (entry,))
    assert found == {f"models/{ref.path}": (models / ref.path).read_bytes() for ref in entry.files}


def test_the_manifest_layer_comes_last_and_the_files_in_the_order_of_their_paths(packed: Packed) -> None:
    paths = [(blob.descriptor.annotations or {})[PATH] for blob in packed.layers]

    assert paths[-1] == "model_manifest.json"
    assert paths[:-1] == sorted(paths[:-1])


def test_a_file_is_hashed_once_for_all_packings(
    models: Path, entry: BundleEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests_module, "SETTLED", -1)
    taken: list[Path] = []

    class Counting(Digests):
        def remembered(self, path: Path, label: str, taken_: Callable[[], str]) -> str:
            def counted() -> str:
                taken.append(path)
                return taken_()

            return super().remembered(path, label, counted)

    first = pack(models, entry, Counting(tmp_path))
    assert len(taken) == len(entry.files)
    second = pack(models, entry, Counting(tmp_path))
    assert len(taken) == len(entry.files)
    assert first.image == second.image


def test_a_file_under_two_names_has_two_layers(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of a file is its layer under one name; a hard link is the same file under another."""
    monkeypatch.setattr(digests_module, "SETTLED", -1)
    fixed_entry(models)
    os.link(models / "onnx/fixed.onnx_data", models / "onnx/second.onnx_data")
    entry = fixed_entry(models)
    files = tuple(sorted((*entry.files, file_ref(models, "onnx/second.onnx_data")), key=lambda ref: ref.path))
    packed = pack(models, replace(entry, files=files), Digests(tmp_path))

    digests = {(blob.descriptor.annotations or {})[PATH]: blob for blob in packed.layers}
    first, second = digests["onnx/fixed.onnx_data"], digests["onnx/second.onnx_data"]
    assert first.descriptor.digest != second.descriptor.digest == digest_of(content(second))


@pytest.mark.parametrize("damage", ["other bytes", "shorter", "longer", "gone", "folder"])
def test_a_file_that_is_not_the_manifests_is_an_integrity_error_that_names_it(
    models: Path, entry: BundleEntry, digests: Digests, damage: str
) -> None:
    path = models / "onnx" / "fixed.onnx"
    if damage in ("gone", "folder"):
        path.unlink()
    if damage == "folder":
        path.mkdir()
    if damage not in ("gone", "folder"):
        path.write_bytes({"other bytes": b"grapH", "shorter": b"grap", "longer": b"graph "}[damage])

    with pytest.raises(IntegrityError, match=r"fixed\.onnx is .*build the bundle again") as caught:
        pack(models, entry, digests)
    assert caught.value.exit_code == 5


def test_a_link_is_refused_though_its_bytes_are_right(
    models: Path, entry: BundleEntry, digests: Digests, tmp_path: Path
) -> None:
    path = models / "onnx" / "fixed.onnx"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(RefusedError, match=r"fixed\.onnx is a link"):
        pack(models, entry, digests)


def test_a_name_that_would_delete_files_of_an_image_is_refused(
    models: Path, entry: BundleEntry, digests: Digests
) -> None:
    (models / ".wh.onnx").write_bytes(b"")
    files = (*entry.files, file_ref(models, ".wh.onnx"))

    with pytest.raises(RefusedError, match=r"fixed names the path 'models/\.wh\.onnx', which in a layer would delete"):
        pack(models, replace(entry, files=files), digests)


# ---- the documents ------------------------------------------------------------------------------------------------------


def test_the_image_is_one_that_docker_takes(entry: BundleEntry, packed: Packed) -> None:
    """image-spec, manifest.md and config.md."""
    image = document(packed, packed.image.digest)
    config = document(packed, image["config"]["digest"])

    assert (image["schemaVersion"], image["mediaType"]) == (2, IMAGE_MANIFEST)
    assert image["config"]["mediaType"] == IMAGE_CONFIG
    assert {one["mediaType"] for one in image["layers"]} == {LAYER_TAR}
    assert (config["architecture"], config["os"]) == ("amd64", "linux")
    assert config["rootfs"] == {"type": "layers", "diff_ids": [one["digest"] for one in image["layers"]]}
    assert len(config["history"]) == len(image["layers"])
    assert config["config"]["User"] == "65532:65532"
    assert config["config"]["Labels"]["io.modelbake.weights"] == "fixed=sample"


def test_the_annotations_say_what_the_bundle_is(entry: BundleEntry, packed: Packed) -> None:
    for descriptor in (packed.image, packed.modelpack):
        assert document(packed, descriptor.digest)["annotations"] == {
            "org.opencontainers.image.title": "fixed",
            "org.opencontainers.image.description": "made for a test",
            "org.opencontainers.image.version": "1.0.0",
            "org.opencontainers.image.licenses": "Apache-2.0",
            "org.opencontainers.image.source": "owner/fixed",
            "org.opencontainers.image.revision": "0" * 40,
            "io.modelbake.bundles": "fixed",
            "io.modelbake.weights": "fixed=sample",
            "io.modelbake.bundle.digest": f"sha256:{entry.digest}",
        }


def test_the_modelpack_manifest_lists_exactly_the_images_layer_blobs(packed: Packed) -> None:
    image, model = (document(packed, one.digest) for one in (packed.image, packed.modelpack))

    assert [(one["digest"], one["size"]) for one in model["layers"]] == [
        (one["digest"], one["size"]) for one in image["layers"]
    ]
    assert (model["artifactType"], model["config"]["mediaType"]) == (MODELPACK_MANIFEST, MODELPACK_CONFIG)
    assert {one["annotations"][MODELPACK_PATH]: one["mediaType"] for one in model["layers"]} == {
        "models/goldens/fixed.npz": "application/vnd.cncf.model.weight.config.v1.tar",
        "models/model_manifest.json": "application/vnd.cncf.model.weight.config.v1.tar",
        "models/onnx/fixed.onnx": "application/vnd.cncf.model.weight.v1.tar",
        "models/onnx/fixed.onnx_data": "application/vnd.cncf.model.weight.v1.tar",
        "models/tokenizers/fixed/tokenizer.json": "application/vnd.cncf.model.weight.config.v1.tar",
    }


@pytest.mark.skipif(SCHEMA is None, reason="shared/data/modelpack/config-schema.json is not on this machine")
def test_the_modelpack_config_fits_its_schema(packed: Packed, models: Path, digests: Digests, tmp_path: Path) -> None:
    assert SCHEMA is not None
    schema = json.loads(SCHEMA.read_bytes())
    validator = jsonschema.validators.validator_for(schema)(schema, format_checker=jsonschema.FormatChecker())
    made = tiny.models_folder(tmp_path / "tiny")
    for one in (packed, *(pack(tmp_path / "tiny", entry, digests) for entry in made.bundles)):
        config = document(one, document(one, one.modelpack.digest)["config"]["digest"])
        validator.validate(config)
        assert config["modelfs"]["diffIds"] == [blob.descriptor.digest for blob in one.layers]
    # A check of the check.
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**config, "more": 1})


def test_several_platforms_share_their_layers_and_are_one_index(
    models: Path, entry: BundleEntry, digests: Digests, packed: Packed
) -> None:
    both = pack(models, entry, digests, PLATFORMS)
    index = document(both, both.image.digest)

    assert (index["mediaType"], both.image.media_type) == (IMAGE_INDEX, IMAGE_INDEX)
    assert [one["platform"] for one in index["manifests"]] == [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm64", "os": "linux", "variant": "v8"},
    ]
    assert index["manifests"][0]["digest"] == packed.image.digest
    manifests = [document(both, one["digest"]) for one in index["manifests"]]
    assert manifests[0]["layers"] == manifests[1]["layers"]
    configs = [document(both, one["config"]["digest"]) for one in manifests]
    assert [config["architecture"] for config in configs] == ["amd64", "arm64"]
    assert configs[1]["variant"] == "v8"
    assert both.modelpack == packed.modelpack


@pytest.mark.parametrize("platforms", [PLATFORMS[:1], PLATFORMS])
def test_a_packed_bundle_is_whole_in_a_store(
    models: Path, entry: BundleEntry, digests: Digests, tmp_path: Path, platforms: tuple[Platform, ...]
) -> None:
    packed = pack(models, entry, digests, platforms)
    store = Store(tmp_path / "store")
    with store.adding():
        for blob in (*packed.layers, *packed.documents):
            store.add(blob)
        store.tag("fixed:1", packed.image)
        store.tag("fixed:1-modelpack", packed.modelpack)

    # Nothing of it is unnamed, and nothing that is named is missing.
    assert store.gc().blobs == 0
    assert {one.digest for one in store.verify()} == {
        blob.descriptor.digest for blob in (*packed.layers, *packed.documents)
    }
    kind = ImageManifest if len(platforms) == 1 else ImageIndex
    assert decode(store.read(store.resolve("fixed:1")), kind, "it")
    assert len(list(reachable(store, packed.modelpack))) == len(packed.layers) + 2


def test_the_weights_are_not_copied(models: Path, entry: BundleEntry, packed: Packed, tmp_path: Path) -> None:
    """The layers are views of the models folder's own files."""
    paths = {piece.path for blob in packed.layers for piece in blob.pieces if not isinstance(piece, bytes)}

    assert paths == {models / ref.path for ref in entry.files}
    assert {sha256_of(path) for path in paths} == {ref.sha256 for ref in entry.files}
