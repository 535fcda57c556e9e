"""Documents and layers that mean harm: refused with one message, nothing outside of the folder touched, nothing of them to be seen."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from modelbake import manifest
from modelbake.oci.pack import Packed
from tests.faults.project import Done
from tests.registry.client import Client
from tests.registry.fixture import client as client
from tests.registry.fixture import proxy as proxy
from tests.registry.fixture import registry as registry
from tests.registry.proxy import FaultyProxy
from tests.registry.raw import CONFIG, LAYER, MANIFEST, Repository
from tests.registry.server import Registry

INDEX = "application/vnd.oci.image.index.v1+json"
PATH = "io.modelbake.path"


@dataclass
class Image:
    """An image to be changed before it is pushed by hand: its layers' bytes by path, the models manifest, the image manifest."""

    layers: dict[str, bytes]
    models: dict[str, Any]
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    def push(self, repository: Repository, tag: str = "1") -> str:
        """All blobs, then a manifest that lists them with `listed` over each layer's descriptor and `more` over the document."""
        layers = {
            **self.layers,
            manifest.MANIFEST_NAME: tar(f"models/{manifest.MANIFEST_NAME}", json.dumps(self.models).encode()),
        }
        descriptors = []
        for path, data in layers.items():
            found = {**repository.put_blob(data), "mediaType": LAYER, "annotations": {PATH: path}}
            descriptors.append({**found, **self.listed.get(path, {})})
        config = {**repository.put_blob(config_of(descriptors)), "mediaType": CONFIG}
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": descriptors, **self.more}
        return repository.put_manifest(document, tag)


def config_of(layers: list[dict[str, Any]]) -> bytes:
    """A plain image config for these layers."""
    rootfs = {"type": "layers", "diff_ids": [one["digest"] for one in layers]}
    return json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()


def header(name: str, size: int, kind: bytes = b"0", link: str = "") -> bytes:
    """A member's block as modelbake's format has it, but for what is asked."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname, info.mode = size, kind, link, 0o755 if kind == b"5" else 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def tar(path: str, data: bytes) -> bytes:
    """A layer of modelbake's own format."""
    from modelbake.oci import layer

    return layer.head(path, len(data)) + data + layer.tail(len(data))


def members(*entries: tuple[str, bytes, bytes, str]) -> bytes:
    """A tar of these members: name, data, kind, link."""
    made = io.BytesIO()
    for name, data, kind, link in entries:
        made.write(header(name, len(data), kind, link) + data + bytes(-len(data) % 512))
    return made.getvalue() + bytes(1024)


@pytest.fixture
def packed(client: Client) -> Packed:
    return client.bundle(sizes=(4_000, 1_000))


@pytest.fixture
def repository(registry: Registry) -> Repository:
    return Repository(registry.url, "models/random")


@pytest.fixture
def image(client: Client, packed: Packed) -> Image:
    """The bundle as it should be."""
    layers = {ref.path: b"".join(blob.chunks()) for ref, blob in zip(packed.entry.files, packed.layers, strict=False)}
    return Image(layers, json.loads((client.models / manifest.MANIFEST_NAME).read_text()))


def surroundings(client: Client) -> dict[str, bytes]:
    """Every file around the folder that is pulled into, but for this test's own."""
    own = ("home", "cache", "packing", "pulled", ".pulled.pull.lock")
    found = (path for path in client.folder.parent.rglob("*") if path.is_file() and "registry" not in path.parts)
    return {
        str(path): path.read_bytes()
        for path in found
        if path.suffix not in (".out", ".err") and not set(own) & set(path.relative_to(client.folder.parent).parts)
    }


def refuses(client: Client, registry: Registry | FaultyProxy, codes: tuple[int, ...] = (5, 8)) -> Done:
    before = surroundings(client)
    done = client.pull(f"{registry.host}/models/random:1")
    assert done.code in codes, (done.code, done.err)
    done.failed(done.code)
    assert len(done.err) < 3000
    assert client.visible() == set()
    assert not any(path.is_symlink() for path in client.to.rglob("*"))
    assert surroundings(client) == before
    return done


def test_the_image_as_it_should_be_is_pulled(
    client: Client, packed: Packed, registry: Registry, repository: Repository, image: Image
) -> None:
    image.push(repository)
    client.pull(f"{registry.host}/models/random:1").succeeded()
    client.holds(packed.entry)


OUTSIDE = [
    "../evil.onnx", "/tmp/evil.onnx", "onnx/../../evil.onnx", "onnx/../../../../../../../../tmp/evil.onnx", "a\\..\\..\\evil",
    ".", "..", "", "onnx//evil", "onnx/./evil", "C:evil", "onnx/evil\x00", "/", "~/evil", "model_manifest.json",
    ".staging/evil", ".pulling/evil",
]  # fmt: skip


def moved(image: Image, old: str, new: str) -> None:
    """The file called `new` wherever `old` stood: in the models manifest, in its layer and in the annotation."""
    text = json.dumps(image.models)
    image.models = json.loads(text.replace(json.dumps(old), json.dumps(new)))
    data = image.layers.pop(old)
    size = next(f["size"] for f in image.models["bundles"][0]["files"] if f["path"] == new)
    content = data[-1024 - (-size % 512) - size :][:size]
    image.layers[new] = members((f"models/{new}"[:99], content, b"0", ""))


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_that_leaves_the_folder_is_refused(
    client: Client, registry: Registry, repository: Repository, image: Image, path: str
) -> None:
    moved(image, image.models["bundles"][0]["artifacts"][0]["path"], path)
    image.push(repository)
    refuses(client, registry)
    assert not Path("/tmp/evil.onnx").exists()
    assert not list(client.folder.rglob("evil*"))


ENTRIES: dict[str, Callable[[str, bytes], bytes]] = {
    "a symbolic link": lambda path, data: members((f"models/{path}", b"", b"2", "/etc/passwd")),
    "a hard link": lambda path, data: members((f"models/{path}", b"", b"1", "/etc/passwd")),
    "a device": lambda path, data: members((f"models/{path}", b"", b"3", "")),
    "a pipe": lambda path, data: members((f"models/{path}", b"", b"6", "")),
    "a folder": lambda path, data: members((f"models/{path}", b"", b"5", "")),
    "a link in the way": lambda path, data: members(("models/onnx", b"", b"2", "/tmp"), (f"models/{path}", data, b"0", "")),
    "a second file": lambda path, data: tar(f"models/{path}", data)[:-1024] + members(("models/evil", b"evil", b"0", "")),
    "a whiteout": lambda path, data: members(("models/.wh.onnx", b"", b"0", "")),
    "another file": lambda path, data: tar("models/onnx/evil.onnx", data),
    "above the root": lambda path, data: tar(f"models/../{path}", data),
    "absolute": lambda path, data: members((f"/models/{path}", data, b"0", "")),
    "no archive": lambda path, data: data,
    "nothing": lambda path, data: b"",
    "no end": lambda path, data: tar(f"models/{path}", data)[:-1024],
    "compressed": lambda path, data: __import__("gzip").compress(tar(f"models/{path}", data), mtime=0),
}  # fmt: skip


@pytest.mark.parametrize("name", ENTRIES)
def test_a_layer_that_is_not_one_plain_file_is_refused(
    client: Client, packed: Packed, registry: Registry, repository: Repository, image: Image, name: str
) -> None:
    ref = next(ref for ref in packed.entry.files if ref.path.endswith("fp32.onnx"))
    image.layers[ref.path] = ENTRIES[name](ref.path, (client.models / ref.path).read_bytes())
    image.push(repository)
    refuses(client, registry)


def test_a_link_that_stands_in_the_folder_is_not_written_through(
    client: Client, packed: Packed, registry: Registry, repository: Repository, image: Image
) -> None:
    image.push(repository)
    precious = client.folder / "precious"
    precious.write_text("mine")
    ref = next(ref for ref in packed.entry.files if ref.path.endswith("fp32.onnx"))
    (client.to / ref.path).parent.mkdir(parents=True)
    (client.to / ref.path).symlink_to(precious)
    client.pull(f"{registry.host}/models/random:1").succeeded()
    assert precious.read_text() == "mine"
    assert not (client.to / ref.path).is_symlink()
    client.holds(packed.entry)


WRONG: dict[str, dict[str, Any]] = {
    "a digest of another kind": {"digest": "sha512:" + "0" * 128},
    "a digest that is a path": {"digest": "sha256:../../../../etc/passwd"},
    "a digest in capitals": {"digest": "sha256:" + "A" * 64},
    "no digest": {"digest": ""},
    "a negative size": {"size": -1},
    "a size of text": {"size": "12"},
    "an enormous size": {"size": 1 << 63},
    "a size too small": {"size": 100},
    "a size too large": {"size": 1 << 40},
    "no media type": {"mediaType": None},
    "annotations that are none": {"annotations": [1, 2]},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_manifest_that_lists_wrong_digests_or_sizes_is_refused(
    client: Client, packed: Packed, proxy: FaultyProxy, repository: Repository, image: Image, name: str
) -> None:
    ref = next(ref for ref in packed.entry.files if ref.path.endswith("fp32.onnx"))
    document = repository.manifest(image.push(repository)).json()
    for one in document["layers"]:
        one |= WRONG[name] if one["annotations"][PATH] == ref.path else {}
    # The registry itself would not take all of these.
    proxy.faults.add("/v2/*/manifests/1", kind="replace", body=json.dumps(document).encode(), times=None)
    refuses(client, proxy)


def test_a_layer_that_is_another_s_is_refused(
    client: Client, packed: Packed, registry: Registry, repository: Repository, image: Image
) -> None:
    """The manifest's digest is right and the bytes are whole, but they are not those of the file that the models manifest lists."""
    ref = next(ref for ref in packed.entry.files if ref.path.endswith("fp32.onnx"))
    image.layers[ref.path] = tar(f"models/{ref.path}", bytes(ref.size))
    image.push(repository)
    refuses(client, registry)


def test_two_layers_of_one_file_do_not_both_count(
    client: Client, packed: Packed, registry: Registry, repository: Repository, image: Image
) -> None:
    ref = next(ref for ref in packed.entry.files if ref.path.endswith("fp32.onnx"))
    image.layers["evil"] = tar(f"models/{ref.path}", bytes(ref.size))
    image.push(repository)
    done = client.pull(f"{registry.host}/models/random:1")
    # In an image the upper layer counts, and its file is another than the manifest lists.
    assert done.code in (0, 5), done.err
    client.is_sound(packed.entry)


def layers_of(image: Image, repository: Repository, count: int) -> list[dict[str, Any]]:
    found = {**repository.put_blob(tar("models/x", b"x")), "mediaType": LAYER}
    return [found] * count


@pytest.mark.parametrize("count", [4_097, 10_000])
def test_thousands_of_layers_are_refused_before_any_is_asked_for(
    client: Client, registry: Registry, repository: Repository, image: Image, count: int
) -> None:
    image.more = {"layers": layers_of(image, repository, count)}
    image.push(repository)
    before = len(registry.log)
    refuses(client, registry)
    assert len(registry.log) - before < 20


def test_a_manifest_larger_than_any_is_refused(
    client: Client, proxy: FaultyProxy, repository: Repository, image: Image
) -> None:
    data = repository.manifest(image.push(repository)).content
    large = data[:-1] + b" " * (20 << 20) + b"}"
    proxy.faults.add("/v2/*/manifests/1", kind="replace", body=large, times=None)
    refuses(client, proxy)


@pytest.mark.parametrize("depth", [1, 5, 30])
def test_indexes_in_indexes_end_somewhere(
    client: Client, packed: Packed, registry: Registry, repository: Repository, image: Image, depth: int
) -> None:
    digest = image.push(repository, "image")
    size, media_type = len(repository.manifest("image").content), MANIFEST
    for number in range(depth):
        document = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [{"mediaType": media_type, "digest": digest, "size": size}],
        }
        tag = "1" if number == depth - 1 else f"index-{number}"
        digest = repository.put_manifest(document, tag, INDEX)
        size, media_type = len(json.dumps(document)), INDEX
    done = client.pull(f"{registry.host}/models/random:1")
    assert done.code in (0, 5), done.err
    if done.code:
        done.failed(5)
        assert depth > 1
    else:
        client.holds(packed.entry)


MODELS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no object": lambda found: [1],
    "another version": lambda found: {**found, "schema_version": 99},
    "a field too many": lambda found: {**found, "run": "rm -rf /"},
    "a bundle twice": lambda found: {**found, "bundles": found["bundles"] * 2},
    "a file that has no layer": lambda found: {
        **found,
        "bundles": [{**found["bundles"][0], "files": [*found["bundles"][0]["files"], {"path": "x", "sha256": "0" * 64, "size": 1}]}],
    },
    "a name that is a path": lambda found: {**found, "bundles": [{**found["bundles"][0], "name": "../../evil"}]},
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_models_manifest_that_lies_is_refused(
    client: Client, registry: Registry, repository: Repository, image: Image, name: str
) -> None:
    image.models = MODELS[name](image.models)
    image.push(repository)
    refuses(client, registry)


def test_an_image_without_a_bundle_is_refused(client: Client, registry: Registry, repository: Repository) -> None:
    config = {**repository.put_blob(config_of([])), "mediaType": CONFIG}
    repository.put_manifest({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []}, "1")
    refuses(client, registry)


@pytest.mark.parametrize("command", ["copy", "pull"])
def test_hostile_images_do_not_break_the_store(
    client: Client, registry: Registry, repository: Repository, image: Image, command: str
) -> None:
    image.more = {"layers": layers_of(image, repository, 10_000)}
    image.push(repository)
    reference = f"{registry.host}/models/random:1"
    words = ("copy", reference, "store:evil") if command == "copy" else ("pull", reference)
    client.run(*words).failed(5)
    client.run("gc").succeeded()
    client.run("pull", "store:evil", "--to", str(client.to)).failed(3)
