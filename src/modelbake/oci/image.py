"""Images of whatever origin, read from a place: their platforms, config, layers, and which layer holds which file of a bundle.

Formats: OCI image-spec 1.1 (manifest.md, config.md), Docker's image manifest version 2 schema 2, and the layers of oci.layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec

from modelbake import manifest
from modelbake.bundle import safe_relative_path
from modelbake.errors import IntegrityError, RefusedError
from modelbake.layers import IMAGE_ROOT
from modelbake.manifest import MANIFEST_NAME, FileRef, Manifest
from modelbake.oci import layer as layer_format
from modelbake.oci.model import (
    DOCKER_CONFIG,
    DOCKER_LAYER_TAR,
    IMAGE_CONFIG,
    INDEXES,
    LAYER_TAR,
    MANIFESTS,
    MOST_MANIFEST_BYTES,
    Descriptor,
    Digest,
    ImageIndex,
    ImageManifest,
    Platform,
    decode,
)
from modelbake.oci.pack import BUNDLES, PATH
from modelbake.oci.place import Place

PLAIN = "Bake it with compression=uncompressed,force-compression=true, or pack and graft the bundles."

_ATTESTATION = "vnd.docker.reference.type"
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
# Docker's media types of layers and OCI's for the very same bytes (image-spec, media-types.md, "Compatibility Matrix").
_LAYER_TYPES = {
    **{_OCI_LAYER + packing: _OCI_LAYER + packing for packing in ("", "+gzip", "+zstd")},
    DOCKER_LAYER_TAR: _OCI_LAYER,
    f"{DOCKER_LAYER_TAR}.gzip": f"{_OCI_LAYER}+gzip",
    f"{DOCKER_LAYER_TAR}.zstd": f"{_OCI_LAYER}+zstd",
}
_AT_ONCE = 8


@dataclass(frozen=True)
class Layer:
    """A layer where it is, and the digest of what it unpacks to. Its media type is OCI's, whatever the manifest calls it."""

    place: Place
    descriptor: Descriptor
    diff_id: str


@dataclass(frozen=True)
class Image:
    """One platform's image. `config` is the whole JSON of its config, with the fields that are not known here too.

    `history` has the config's entries, each with the number of its layer, or None where it made none; nothing at all where
    the config's history does not tell which layer is whose.
    """

    where: str
    platform: Platform
    manifest: ImageManifest
    config: dict[str, Any]
    layers: tuple[Layer, ...]
    history: tuple[tuple[dict[str, Any], int | None], ...]

    @property
    def labels(self) -> dict[str, str]:
        return dict((self.config.get("config") or {}).get("Labels") or {})


@dataclass(frozen=True)
class Contents:
    """What an image holds of bundles: the merged manifest, the layer of each listed file, and the numbers of all other layers.

    A listed file without a layer of its own, such as one that was compressed, is in `others` and not in `files`.
    """

    where: str
    manifest: Manifest
    files: Mapping[str, Layer]
    others: tuple[int, ...]

    def layer(self, ref: FileRef) -> Layer | None:
        """The layer of a listed file, if it has one; IntegrityError where that is none of the file's size."""
        found = self.files.get(ref.path)
        if found is not None and found.descriptor.size != layer_format.length(f"{IMAGE_ROOT}/{ref.path}", ref.size):
            raise IntegrityError(
                f"{self.where}: the layer {found.descriptor.digest} is not that of {ref.path}, which has {ref.size:,} bytes by the "
                "manifest in the image; bake or pack it again."
            )
        return found


def images(place: Place, root: Descriptor) -> Iterator[Image]:
    """The images that a document leads to: itself, or those of an index, without the attestations that BuildKit adds.

    IntegrityError where there is none.
    """
    where = f"{place}: {root.digest}"
    if root.media_type in MANIFESTS:
        yield _image(place, root)
        return
    listed = decode(place.read(root), ImageIndex, where).manifests if root.media_type in INDEXES else ()
    found = [one for one in listed if one.media_type in MANIFESTS and not _is_attestation(one)]
    if not found:
        raise IntegrityError(f"{where} leads to no image ({root.media_type}); name an image.")
    for one in found:
        yield _image(place, one)


def _is_attestation(descriptor: Descriptor) -> bool:
    platform = descriptor.platform
    return _ATTESTATION in (descriptor.annotations or {}) or (platform is not None and platform.os == "unknown")


def _image(place: Place, descriptor: Descriptor) -> Image:
    where = f"{place}: {descriptor.digest}"
    found = decode(place.read(descriptor), ImageManifest, where)
    if found.config.media_type not in (IMAGE_CONFIG, DOCKER_CONFIG):
        raise IntegrityError(
            f"{where} is no image, its config is {found.config.media_type}; a bundle's image has the name without -modelpack."
        )
    config, known = _config(place.read(found.config), where)
    if len(known.rootfs.diff_ids) != len(found.layers):
        raise IntegrityError(
            f"{where} has {len(found.layers)} layers, but its config tells of {len(known.rootfs.diff_ids)}; build it again."
        )
    layers = tuple(
        Layer(place, _as_oci(one, where), diff_id)
        for one, diff_id in zip(found.layers, known.rootfs.diff_ids, strict=True)
    )
    platform = descriptor.platform or Platform(known.architecture, known.os, known.variant)
    return Image(where, platform, found, config, layers, _history(config, len(layers)))


class _RootFS(msgspec.Struct, frozen=True):
    diff_ids: tuple[Digest, ...] = ()


class _Entry(msgspec.Struct, frozen=True):
    empty_layer: bool = False


class _Run(msgspec.Struct, frozen=True):
    labels: dict[str, str] | None = msgspec.field(default=None, name="Labels")


class _Config(msgspec.Struct, frozen=True):
    """What is needed of a config, to check its types; the document itself is kept whole."""

    architecture: str
    os: str
    rootfs: _RootFS
    variant: str | None = None
    config: _Run | None = None
    history: tuple[_Entry, ...] | None = None


def _config(data: bytes, where: str) -> tuple[dict[str, Any], _Config]:
    known = decode(data, _Config, f"The config of {where}")
    whole: dict[str, Any] = msgspec.json.decode(data)
    return whole, known


def _history(config: dict[str, Any], layers: int) -> tuple[tuple[dict[str, Any], int | None], ...]:
    entries: list[dict[str, Any]] = config.get("history") or []
    numbered: list[tuple[dict[str, Any], int | None]] = []
    number = 0
    for entry in entries:
        empty = bool(entry.get("empty_layer"))
        numbered.append((entry, None if empty else number))
        number += not empty
    return tuple(numbered) if number == layers else ()


def _as_oci(descriptor: Descriptor, where: str) -> Descriptor:
    media_type = _LAYER_TYPES.get(descriptor.media_type)
    if media_type is None:
        raise IntegrityError(
            f"{where} has a layer of the kind {descriptor.media_type}, which cannot be grafted; build the image with plain, gzip or zstd "
            "layers."
        )
    return Descriptor(media_type, descriptor.digest, descriptor.size, annotations=descriptor.annotations)


def contents(image: Image, trusted: bool) -> Contents | None:
    """What the image holds of bundles, found by its layers' annotations and first bytes; None where it holds none.

    trusted: annotations are taken at their word, which spares a read of each layer. Else every layer's first bytes are looked at,
    so that none comes into another image that is not the file's it is said to be.

    RefusedError where its labels name bundles but no layer of modelbake's format has their manifest, as in an image of compressed
    layers. Of several layers of one path the last counts; those that it hides are left out of `files` and of `others`.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        paths = list(pool.map(lambda one: _path(one, trusted), image.layers))
    last = {path: number for number, path in enumerate(paths) if path is not None}
    if MANIFEST_NAME not in last:
        if image.labels.get(BUNDLES):
            raise RefusedError(
                f"{image.where} says that it holds {image.labels[BUNDLES]}, but none of its layers is their manifest in modelbake's "
                f"format, so what is in them cannot be told. {PLAIN}"
            )
        return None
    found = _manifest(image, image.layers[last[MANIFEST_NAME]])
    listed = {ref.path for entry in found.bundles for ref in entry.files}
    others = (number for number, path in enumerate(paths) if path != MANIFEST_NAME and path not in listed)
    files = {path: image.layers[number] for path, number in last.items() if path in listed}
    return Contents(image.where, found, files, tuple(others))


def _path(layer: Layer, trusted: bool) -> str | None:
    """The file of the layer by its path below the models folder, where the layer is one of modelbake's format."""
    descriptor = layer.descriptor
    if descriptor.media_type != LAYER_TAR or layer.diff_id != descriptor.digest:
        return None
    where = f"{layer.place}: {descriptor.digest}"
    annotated = (descriptor.annotations or {}).get(PATH) if trusted else None
    try:
        if annotated is not None:
            return str(safe_relative_path(annotated, where))
        entry = layer_format.read_head(layer.place.part(descriptor, 0, layer_format.MOST_HEAD), where)
    except (IntegrityError, RefusedError):
        # Any other layer; what it holds is none of graft's business.
        return None
    alone = descriptor.size == layer_format.length(entry.path, entry.size)
    if alone and not trusted:
        # Behind the file there could be another, which nobody lists.
        tail = layer_format.tail(entry.size)
        alone = layer.place.part(descriptor, descriptor.size - len(tail), len(tail)) == tail
    below = entry.path.startswith(f"{IMAGE_ROOT}/")
    return entry.path.removeprefix(f"{IMAGE_ROOT}/") if alone and below else None


def _manifest(image: Image, layer: Layer) -> Manifest:
    where = f"The models manifest in {image.where}"
    if layer.descriptor.size > MOST_MANIFEST_BYTES:
        raise IntegrityError(f"{where} has {layer.descriptor.size:,} bytes, more than a manifest may have.")
    data = layer.place.read(layer.descriptor)
    entry = layer_format.read_head(data, where)
    if entry.path != f"{IMAGE_ROOT}/{MANIFEST_NAME}" or len(data) != layer_format.length(entry.path, entry.size):
        raise IntegrityError(f"{where}: {layer.descriptor.digest} is another file's layer; bake or pack it again.")
    return manifest.decode(data[entry.offset : entry.offset + entry.size], where)
