"""Stores with a small image, made in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from modelbake.oci.blob import Blob, layer_pieces, of_bytes
from modelbake.oci.layer import length
from modelbake.oci.model import (
    IMAGE_CONFIG,
    IMAGE_MANIFEST,
    LAYER_TAR,
    Descriptor,
    ImageManifest,
    descriptor_of,
    digest_of,
    encode,
)
from modelbake.oci.store import Store


@dataclass(frozen=True)
class Image:
    """An image of one layer: its blobs, what is named before what names it, and the manifest's descriptor."""

    blobs: tuple[Blob, ...]
    root: Descriptor

    @property
    def digests(self) -> set[str]:
        return {blob.descriptor.digest for blob in self.blobs}

    def put(self, store: Store, *names: str) -> None:
        """Add the image and let the names lead to it."""
        with store.adding():
            for blob in self.blobs:
                store.add(blob)
            for name in names:
                store.tag(name, self.root)


def image(folder: Path, content: bytes) -> Image:
    """An image whose layer holds a file of that content, which lies in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / digest_of(content).removeprefix("sha256:")[:12]
    file.write_bytes(content)
    pieces = layer_pieces("models/m", file, len(content))
    data = b"".join(piece if isinstance(piece, bytes) else piece.path.read_bytes() for piece in pieces)
    layer = Blob(Descriptor(LAYER_TAR, digest_of(data), length("models/m", len(content))), pieces)
    config = b'{"rootfs":{"type":"layers","diff_ids":["%s"]}}' % layer.descriptor.digest.encode()
    config_blob = of_bytes(config, descriptor_of(config, IMAGE_CONFIG))
    manifest = encode(ImageManifest(2, config_blob.descriptor, (layer.descriptor,), IMAGE_MANIFEST))
    manifest_blob = of_bytes(manifest, descriptor_of(manifest, IMAGE_MANIFEST))
    return Image((layer, config_blob, manifest_blob), manifest_blob.descriptor)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def first(tmp_path: Path) -> Image:
    return image(tmp_path / "files", b"first" * 1000)


@pytest.fixture
def second(tmp_path: Path) -> Image:
    return image(tmp_path / "files", b"second" * 1000)


def on_disk(store: Store) -> set[str]:
    """The digests of all blobs in the folder."""
    return {f"sha256:{path.name}" for path in (store.folder / "blobs" / "sha256").iterdir()}


def left_over(store: Store) -> list[Path]:
    """What lies in the folder and is no blob, index or lock."""
    known = ("blobs", "locks", "ingest", "index.json", "oci-layout")
    return [path for path in store.folder.iterdir() if path.name not in known] + list(
        (store.folder / "ingest").iterdir()
    )
