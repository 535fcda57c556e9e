"""Descriptors, manifests, indexes and image configs of OCI, read from untrusted bytes and written the same way each time.

Formats: OCI image-spec 1.1 (descriptor.md, manifest.md, image-index.md, config.md) and the CNCF ModelPack model-spec.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from modelbake.errors import IntegrityError

IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_TAR = "application/vnd.docker.image.rootfs.diff.tar"

MANIFESTS = (IMAGE_MANIFEST, DOCKER_MANIFEST)
INDEXES = (IMAGE_INDEX, DOCKER_INDEX)
DOCUMENTS = (*MANIFESTS, *INDEXES)

REF_NAME = "org.opencontainers.image.ref.name"

# What registries take as well: a manifest is held in memory, and nobody's has more than a few thousand layers.
MOST_MANIFEST_BYTES = 4 << 20
MOST_LAYERS = 4096

# `$` alone would take a line feed at the end too.
DIGEST = r"^sha256:[0-9a-f]{64}$(?!\n)"
Digest = Annotated[str, Meta(pattern=DIGEST)]
Size = Annotated[int, Meta(ge=0, le=1 << 50)]

T = TypeVar("T", bound=Struct)


class _Document(Struct, frozen=True, rename="camel", omit_defaults=True):
    pass


class Platform(_Document, frozen=True):
    """What an image of an index runs on; `features` of the specification that are not used here are dropped."""

    architecture: str
    os: str
    variant: str | None = None


class Descriptor(_Document, frozen=True):
    """A blob's media type, digest and size in bytes, and what is said of it."""

    media_type: str
    digest: Digest
    size: Size
    artifact_type: str | None = None
    platform: Platform | None = None
    annotations: dict[str, str] | None = None

    @property
    def hex(self) -> str:
        return self.digest.partition(":")[2]

    @property
    def is_document(self) -> bool:
        """Whether it names a manifest or an index, which registries keep apart from blobs."""
        return self.media_type in DOCUMENTS

    def bare(self) -> Descriptor:
        """The descriptor without annotations and platform: what it names, and no more."""
        return Descriptor(self.media_type, self.digest, self.size)


class ImageManifest(_Document, frozen=True):
    """An image or artifact manifest."""

    schema_version: Annotated[int, Meta(ge=2, le=2)]
    config: Descriptor
    layers: Annotated[tuple[Descriptor, ...], Meta(max_length=MOST_LAYERS)]
    media_type: str = ""
    artifact_type: str | None = None
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class ImageIndex(_Document, frozen=True):
    """A list of manifests: an image's platforms, a layout's tags, or referrers."""

    schema_version: Annotated[int, Meta(ge=2, le=2)]
    manifests: Annotated[tuple[Descriptor, ...], Meta(max_length=MOST_LAYERS)]
    media_type: str = ""
    artifact_type: str | None = None
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


def digest_of(data: bytes) -> str:
    """`sha256:` and the SHA-256 of `data` in hexadecimal."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def descriptor_of(data: bytes, media_type: str, **more: Any) -> Descriptor:
    """The descriptor of `data`."""
    return Descriptor(media_type, digest_of(data), len(data), **more)


def encode(document: Struct | dict[str, Any]) -> bytes:
    """The document as JSON: the same bytes for the same content."""
    return msgspec.json.encode(document, order="deterministic")


def decode(data: bytes, kind: type[T], where: str) -> T:
    """`data` as a document of that kind; IntegrityError, which names `where` it is from, where it is none."""
    if len(data) > MOST_MANIFEST_BYTES:
        raise IntegrityError(f"{where}: {len(data):,} bytes are more than a manifest may have; it is not read.")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(
            f"{where} is no {kind.__name__} ({error}); whatever made it must make it again."
        ) from error
