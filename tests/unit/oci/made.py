"""Runtime images and bundles of a few bytes, made in a store without any engine or model."""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelbake.digests import Digests
from modelbake.files import file_ref
from modelbake.layers import IMAGE_ROOT
from modelbake.manifest import (
    Artifact,
    BundleEntry,
    Manifest,
    Parity,
    SourceRecord,
    Weights,
    bundle_digest,
)
from modelbake.oci import layer
from modelbake.oci.blob import of_bytes
from modelbake.oci.graft import Source
from modelbake.oci.model import (
    DOCKER_CONFIG,
    DOCKER_LAYER_TAR,
    DOCKER_MANIFEST,
    IMAGE_CONFIG,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    LAYER_TAR,
    Descriptor,
    ImageIndex,
    ImageManifest,
    Platform,
    decode,
    descriptor_of,
    digest_of,
    encode,
)
from modelbake.oci.pack import pack
from modelbake.oci.store import Store

AMD64, ARM64 = Platform("amd64", "linux"), Platform("arm64", "linux", "v8")
RUN = {"Env": ["PATH=/opt/venv/bin"], "Entrypoint": ["modelbake"], "User": "65532:65532", "Labels": {"kept": "yes"}}


def entry_of(folder: Path, name: str, files: Mapping[str, bytes], version: str = "1.0.0", **more: Any) -> BundleEntry:
    """A bundle of these files, which are written into `folder`; the first is its graph, the last its goldens."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    refs = tuple(file_ref(folder, path) for path in sorted(files))
    graph, golden = (file_ref(folder, list(files)[i]) for i in (0, -1))
    artifact = Artifact(
        path=graph.path,
        sha256=graph.sha256,
        size=graph.size,
        format="onnx",
        role="text_encoder",
        precision="fp32",
        inputs=(),
        outputs=(),
        tools={},
        parity=Parity(0.0, 1e-5, 1),
    )
    weights: Weights = more.pop("weights", "sample")
    return BundleEntry(
        name=name,
        version=version,
        kind=more.pop("kind", name),
        description="",
        licence="MIT",
        weights=weights,
        pinned=True,
        source=SourceRecord("sample", ()),
        artifacts=(artifact,),
        goldens=golden,
        files=refs,
        digest=bundle_digest(refs),
        **more,
    )


def bundle(
    store: Store, name: str, files: Mapping[str, bytes] | None = None, version: str = "1.0.0", **more: Any
) -> Source:
    """The packed bundle, in the store under NAME:VERSION."""
    content = f"{name} {version}".encode()
    files = {f"onnx/{name}.onnx": content, f"goldens/{name}.npz": content[::-1]} if files is None else files
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        packed = pack(models, entry_of(models, name, files, version, **more), Digests(Path(folder) / "digests"))
        with store.adding():
            for blob in (*packed.layers, *packed.documents):
                store.add(blob)
            store.tag(f"{name}:{version}", packed.image)
    return store, packed.image


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """A tar such as an engine makes, with its own owners and dates."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mtime, info.mode = len(data), 1_700_000_000, 0o755
            tar.addfile(info, io.BytesIO(data))
    return whole.getvalue()


def runtime(
    store: Store,
    layers: Sequence[bytes] = (tar_of({"bin/sh": b"shell"}), tar_of({"opt/app": b"app"})),
    platform: Platform = AMD64,
    docker: bool = False,
    packed: bool = True,
    **config: Any,
) -> Source:
    """An image of these layers, gzip where `packed`, in the documents of Docker or of OCI; `config` goes into its config."""
    blobs = [gzip.compress(data, mtime=0) if packed else data for data in layers]
    plain = DOCKER_LAYER_TAR if docker else LAYER_TAR
    media_type = plain + (("." if docker else "+") + "gzip" if packed else "")
    listed = tuple(descriptor_of(blob, media_type) for blob in blobs)
    whole = {
        "architecture": platform.architecture,
        "os": platform.os,
        **({"variant": platform.variant} if platform.variant else {}),
        "config": RUN,
        "rootfs": {"type": "layers", "diff_ids": [digest_of(data) for data in layers]},
        "history": [{"created_by": "base"}, {"created_by": "ENV", "empty_layer": True}, {"created_by": "app"}][
            : len(layers) + 1
        ],
        **config,
    }
    data = encode(whole)
    described = descriptor_of(data, DOCKER_CONFIG if docker else IMAGE_CONFIG)
    kind = DOCKER_MANIFEST if docker else IMAGE_MANIFEST
    return store, put(store, ImageManifest(2, described, listed, kind), [*blobs, data], platform=platform)


def put(store: Store, document: ImageManifest | ImageIndex, blobs: Sequence[bytes] = (), **more: Any) -> Descriptor:
    """The document and the blobs that it names, in the store."""
    data = encode(document)
    descriptor = descriptor_of(data, document.media_type, **more)
    with store.adding():
        for blob in blobs:
            store.add(of_bytes(blob, descriptor_of(blob, "")))
        store.add(of_bytes(data, descriptor))
    return descriptor


def index(store: Store, *images: Source, more: Sequence[Descriptor] = ()) -> Source:
    """An index of the images."""
    return store, put(store, ImageIndex(2, (*(one for _, one in images), *more), IMAGE_INDEX))


def manifest_of(source: Source) -> ImageManifest:
    """The image manifest."""
    return decode(source[0].read(source[1]), ImageManifest, "test")


def config_of(source: Source) -> dict[str, Any]:
    """The whole config of an image."""
    import json

    found: dict[str, Any] = json.loads(source[0].read(manifest_of(source).config))
    return found


def without_annotations(source: Source) -> Source:
    """The image with the layers' annotations taken away, as BuildKit makes them."""
    store, found = source[0], manifest_of(source)
    assert isinstance(store, Store)
    bare = ImageManifest(2, found.config, tuple(one.bare() for one in found.layers), IMAGE_MANIFEST)
    return store, put(store, bare)


def compressed(source: Source) -> Source:
    """The image with its layers in gzip, as a build without compression=uncompressed makes it."""
    store, found = source[0], manifest_of(source)
    assert isinstance(store, Store)
    blobs = [gzip.compress(b"".join(store.blob(one).chunks()), mtime=0) for one in found.layers]
    listed = tuple(descriptor_of(blob, f"{LAYER_TAR}+gzip") for blob in blobs)
    return store, put(store, ImageManifest(2, found.config, listed, IMAGE_MANIFEST), blobs)


def unpacked(source: Source) -> dict[str, bytes]:
    """The files of an image as an engine would see them, layer upon layer."""
    store, found = source[0], manifest_of(source)
    assert isinstance(store, Store)
    files: dict[str, bytes] = {}
    for one, diff_id in zip(found.layers, config_of(source)["rootfs"]["diff_ids"], strict=True):
        data = b"".join(store.blob(one).chunks())
        assert digest_of(data) == one.digest
        data = gzip.decompress(data) if one.media_type.endswith("gzip") else data
        assert digest_of(data) == diff_id
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None:
                    files[member.name] = file.read()
    return files


def file_layer(path: str, data: bytes) -> bytes:
    """A layer of modelbake's format for a file below the models folder."""
    where = f"{IMAGE_ROOT}/{path}"
    return layer.head(where, len(data)) + data + layer.tail(len(data))


def no_bundles() -> Manifest:
    return Manifest(1, ())
