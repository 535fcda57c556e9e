"""A bundle of a models folder as OCI: its layers, an image manifest, and a ModelPack manifest over the very same blobs.

Nothing is copied: the layers are views of the models folder's files (oci.blob), to be pushed or stored from there. Same bundle,
same bytes, on any machine. Sources: OCI image-spec 1.1 (config.md, manifest.md); CNCF model-spec (docs/spec.md, docs/config.md).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelbake import manifest
from modelbake.digests import Digests
from modelbake.errors import IntegrityError, RefusedError
from modelbake.files import CHUNK
from modelbake.layers import IMAGE_ROOT
from modelbake.manifest import BundleEntry, FileRef, Manifest
from modelbake.oci import layer
from modelbake.oci.blob import Blob, layer_pieces, of_bytes
from modelbake.oci.model import (
    IMAGE_CONFIG,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    LAYER_TAR,
    Descriptor,
    ImageIndex,
    ImageManifest,
    Platform,
    descriptor_of,
    encode,
)

MODELPACK_MANIFEST = "application/vnd.cncf.model.manifest.v1+json"
MODELPACK_CONFIG = "application/vnd.cncf.model.config.v1+json"
MODELPACK_PATH = "org.cncf.model.filepath"
# What a ModelPack manifest is tagged with, beside the image of the same name: its tools take no image, and docker takes no model.
MODELPACK_SUFFIX = "-modelpack"
# On each layer of the image manifest: the file's path below the models folder.
PATH = "io.modelbake.path"
BUNDLES = "io.modelbake.bundles"
WEIGHTS = "io.modelbake.weights"
BUNDLE_DIGEST = "io.modelbake.bundle.digest"

# The user of every image of this project (images/layered/Dockerfile).
_USER = "65532:65532"
DEFAULT_PLATFORMS = (Platform("amd64", "linux"),)


@dataclass(frozen=True)
class Packed:
    """A bundle as OCI: everything that a store or registry must hold, and the two manifests that name it.

    `layers` are the files' in the order of their paths, the models manifest's last; `documents` the configs and manifests, each
    behind those that it names. `image` is what a tag leads to: an image manifest, or an index where there are several platforms.
    """

    entry: BundleEntry
    layers: tuple[Blob, ...]
    documents: tuple[Blob, ...]
    image: Descriptor
    modelpack: Descriptor


def pack(
    models: Path, entry: BundleEntry, digests: Digests, platforms: Sequence[Platform] = DEFAULT_PLATFORMS
) -> Packed:
    """The bundle of that entry as OCI. IntegrityError where a file is not the one that the entry lists, RefusedError
    where it is a link or its name would delete files of an image.

    Each file is read once, unless `digests` knows its layer's digest. The platforms only serve tools that will not pull an image
    of another one: a bundle's files are the same on all.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        refs = sorted(entry.files, key=lambda ref: ref.path)
        layers = list(pool.map(lambda ref: _file_layer(models, ref, entry.name, digests), refs))
    layers.append(manifest_layer(Manifest(manifest.SCHEMA_VERSION, (entry,))))
    annotations = _annotations(entry)
    documents: list[Blob] = []

    def add(document: Any, media_type: str, **more: Any) -> Descriptor:
        data = encode(document)
        descriptor = descriptor_of(data, media_type, **more)
        documents.append(of_bytes(data, descriptor))
        return descriptor

    listed = tuple(blob.descriptor for blob in layers)
    images = []
    for platform in platforms:
        config = add(image_config(platform, listed, _labels(entry)), IMAGE_CONFIG)
        image = ImageManifest(2, config, listed, IMAGE_MANIFEST, annotations=annotations)
        images.append(add(image, IMAGE_MANIFEST, platform=platform))
    root = images[0].bare()
    if len(images) > 1:
        root = add(ImageIndex(2, tuple(images), IMAGE_INDEX, annotations=annotations), IMAGE_INDEX)
    model_config = add(_modelpack_config(entry, listed), MODELPACK_CONFIG)
    kinds = _modelpack_kinds(entry)
    model = ImageManifest(
        2,
        model_config,
        tuple(_modelpack_layer(one, kinds) for one in listed),
        IMAGE_MANIFEST,
        artifact_type=MODELPACK_MANIFEST,
        annotations=annotations,
    )
    modelpack = add(model, IMAGE_MANIFEST)
    return Packed(entry, tuple(layers), tuple(documents), root, modelpack)


def manifest_layer(found: Manifest) -> Blob:
    """The layer that holds the models manifest."""
    data = manifest.encode(found)
    path = f"{IMAGE_ROOT}/{manifest.MANIFEST_NAME}"
    whole = layer.head(path, len(data)) + data + layer.tail(len(data))
    return of_bytes(whole, descriptor_of(whole, LAYER_TAR, annotations=layer_annotations(manifest.MANIFEST_NAME)))


def image_config(platform: Platform, layers: Sequence[Descriptor], labels: dict[str, str]) -> dict[str, Any]:
    """The config of an image that has these uncompressed layers and nothing to run."""
    return {
        "architecture": platform.architecture,
        "os": platform.os,
        **({"variant": platform.variant} if platform.variant else {}),
        # Files alone need no user, but whoever asks an image for one should not be told root.
        "config": {"User": _USER, "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [one.digest for one in layers]},
        "history": [{"created_by": f"modelbake: {(one.annotations or {}).get(PATH, one.digest)}"} for one in layers],
    }


def bundle_labels(entries: Sequence[BundleEntry]) -> dict[str, str]:
    """The labels by which an image says what bundles it holds, as docker-bake.hcl sets them too."""
    return {
        BUNDLES: ",".join(entry.name for entry in entries),
        WEIGHTS: ",".join(f"{entry.name}={entry.weights}" for entry in entries),
    }


def _file_layer(models: Path, ref: FileRef, entry: str, digests: Digests) -> Blob:
    path, file = f"{IMAGE_ROOT}/{ref.path}", models / ref.path
    layer.check_path(path, entry)
    if file.is_symlink():
        raise RefusedError(f"{file} is a link; only plain files go into bundles.")
    if not file.is_file():
        raise IntegrityError(f"{file} is missing although the manifest lists it; build the bundle again.")
    pieces = layer_pieces(path, file, ref.size)

    def hashed() -> str:
        whole = hashlib.sha256(layer.head(path, ref.size))
        # Its bytes are those that the entry lists: remembered from when they were written there, or hashed as well.
        sha256 = digests.known(file)
        content = None if sha256 else hashlib.sha256()
        size = 0
        with file.open("rb", buffering=0) as opened:
            while chunk := opened.read(CHUNK):
                whole.update(chunk)
                size += len(chunk)
                if content:
                    content.update(chunk)
        if (content.hexdigest() if content else sha256, size) != (ref.sha256, ref.size):
            raise IntegrityError(f"{file} is not the file that the manifest lists; build the bundle again.")
        whole.update(layer.tail(ref.size))
        return whole.hexdigest()

    try:
        digest = digests.remembered(file, layer.label(path, ref.sha256), hashed)
    except OSError as error:
        raise IntegrityError(f"{file} cannot be read ({error.strerror}); build the bundle again.") from error
    size = layer.length(path, ref.size)
    return Blob(Descriptor(LAYER_TAR, f"sha256:{digest}", size, annotations=layer_annotations(ref.path)), pieces)


def layer_annotations(path: str) -> dict[str, str]:
    """The annotations of the layer that holds the file `path` below the models folder."""
    # The title is what `oras pull` names the blob, which is a tar.
    return {"org.opencontainers.image.title": f"{path}.tar", PATH: path}


def _annotations(entry: BundleEntry) -> dict[str, str]:
    found = {
        "org.opencontainers.image.title": entry.name,
        "org.opencontainers.image.description": entry.description,
        "org.opencontainers.image.version": entry.version,
        "org.opencontainers.image.licenses": entry.licence,
        BUNDLE_DIGEST: f"sha256:{entry.digest}",
        **bundle_labels([entry]),
    }
    if entry.source.repository:
        found["org.opencontainers.image.source"] = entry.source.repository
    if entry.source.commit:
        found["org.opencontainers.image.revision"] = entry.source.commit
    return found


def _labels(entry: BundleEntry) -> dict[str, str]:
    return {
        **bundle_labels([entry]),
        "org.opencontainers.image.title": f"modelbake bundle {entry.name}",
        "org.opencontainers.image.version": entry.version,
        "org.opencontainers.image.licenses": entry.licence,
    }


def _modelpack_config(entry: BundleEntry, layers: Sequence[Descriptor]) -> dict[str, Any]:
    descriptor = {
        "name": entry.name,
        "version": entry.version,
        "family": entry.kind,
        "description": entry.description,
        "licenses": [entry.licence],
    }
    if entry.source.repository:
        descriptor["sourceURL"] = entry.source.repository
    if entry.source.commit:
        descriptor["revision"] = entry.source.commit
    first = entry.artifacts[0]
    return {
        "descriptor": descriptor,
        "config": {
            "format": first.format,
            "precision": ",".join(dict.fromkeys(artifact.precision for artifact in entry.artifacts)),
        },
        "modelfs": {"type": "layers", "diffIds": [one.digest for one in layers]},
    }


def _modelpack_kinds(entry: BundleEntry) -> dict[str, str]:
    """`weight` for the files that hold weights, by path; a ModelPack layer of another file is `weight.config`."""
    return {
        path: "weight"
        for artifact in entry.artifacts
        for path in (artifact.path, *(ref.path for ref in artifact.external_data))
    }


def _modelpack_layer(descriptor: Descriptor, kinds: dict[str, str]) -> Descriptor:
    path = (descriptor.annotations or {})[PATH]
    kind = kinds.get(path, "weight.config")
    return Descriptor(
        f"application/vnd.cncf.model.{kind}.v1.tar",
        descriptor.digest,
        descriptor.size,
        annotations={MODELPACK_PATH: f"{IMAGE_ROOT}/{path}"},
    )
