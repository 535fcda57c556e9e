"""Images into and out of a Docker engine, by `docker load` and `docker save`, so that layers that the engine has do not move.

Both speak tar archives that are an OCI image layout (image-spec, image-layout.md) and carry Docker's older manifest.json as well.
Measured with Docker 26.1: `docker load` takes an archive without the blobs that the engine has, with the containerd image store as
with overlay2, which wants manifest.json for that; where one is missing it fails and names it.
"""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from modelbake.bake.docker import NO_ENGINE, docker, last_line
from modelbake.errors import MachineError, UnknownNameError
from modelbake.files import CHUNK
from modelbake.oci.blob import Blob, of_bytes
from modelbake.oci.graft import Grafted
from modelbake.oci.image import Layer
from modelbake.oci.layer import MOST_HEAD
from modelbake.oci.model import (
    IMAGE_INDEX,
    INDEXES,
    MOST_MANIFEST_BYTES,
    Descriptor,
    ImageIndex,
    ImageManifest,
    decode,
    descriptor_of,
    encode,
)
from modelbake.oci.store import Store
from modelbake.oci.transfer import Moved, move
from modelbake.output import NO_PROGRESS, Progress, out

_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_LOADED = re.compile(r"Loaded image ID: (sha256:[0-9a-f]{64})")
_UNKNOWN = ("no such image", "reference does not exist", "not found")


# More than stands behind a file in its layer.
_TAIL_BYTES = 4096


class Saved(Store):
    """A store in `folder` for what `save` brings of an image; messages call it by the image's name in the engine."""

    def __init__(self, folder: Path, image: str) -> None:
        super().__init__(folder)
        self._image = image

    def __str__(self) -> str:
        return f"docker:{self._image}"

    def part(self, descriptor: Descriptor, offset: int, count: int) -> bytes:
        """The blob's bytes from `offset` on, at most `count`; of one whose ends alone were kept, none of what is between them."""
        if self.has(descriptor):
            return super().part(descriptor, offset, count)
        ends = self.path(descriptor).read_bytes()
        head, tail = ends[:MOST_HEAD], ends[MOST_HEAD:]
        if offset < len(head):
            return head[offset : offset + count]
        start = offset - (descriptor.size - len(tail))
        return tail[start : start + count] if start >= 0 else b""


class MissingLayerError(MachineError):
    """The engine wants layers again of which only the first bytes were read from it."""


def save(image: str, store: Store, heads: bool = False) -> Descriptor:
    """Bring the engine's image into `store`, within its `adding`, and return what it is: an image manifest or an index.

    heads: of large blobs only both ends, into a store that is made for looking at the image and thrown away.

    The engine has no way to give one blob, so all are read. Platforms that it does not hold are left out. UnknownNameError where
    it has no such image, MachineError where it does not answer.
    """
    index = b""
    with _process("save", "--", image) as process, tarfile.open(fileobj=process.stdout, mode="r|") as archive:
        for member in archive:
            file = archive.extractfile(member)
            blob = _BLOB.fullmatch(member.name)
            if file is not None and blob is not None:
                _keep(store, Descriptor("", f"sha256:{blob[1]}", member.size), file, heads)
            elif file is not None and member.name == "index.json":
                index = file.read(MOST_MANIFEST_BYTES)
    if not index:
        raise MachineError(f"docker save gave no OCI layout of {image}; modelbake needs Docker 25 or newer for that.")
    listed = decode(index, ImageIndex, f"What docker save gave for {image}").manifests
    if len(listed) != 1:
        raise UnknownNameError(f"{image} is {len(listed)} images of the engine; name one by its tag.")
    return _present(store, listed[0].bare())


def load(grafted: Grafted, name: str, held: Collection[str] = ()) -> Moved:
    """Put the grafted image into the engine as `name`: of several platforms the engine's own.

    held: digests of blobs that the engine is known to have. Of these, and of layers that an image in the engine has, nothing is sent
    unless the engine turns out not to have them in that form, which is a MissingLayerError where the bytes are not at hand. MachineError
    where the engine does not take the image.
    """
    chosen = _for_engine(grafted)
    known = {blob.descriptor.digest: blob for blob in grafted.blobs}
    manifest = decode(b"".join(known[chosen.digest].chunks()), ImageManifest, "The grafted image's manifest")
    layers = {one.descriptor.digest: one for one in grafted.layers}
    new = [known[one.digest] for one in (*manifest.layers, manifest.config, chosen) if one.digest in known]
    old = [layers[one.digest] for one in manifest.layers if one.digest in layers]
    there = {*held, *_held()}
    missing = [one for one in old if there.isdisjoint((one.descriptor.digest, one.diff_id))]
    with tempfile.TemporaryDirectory(prefix="modelbake-graft-") as folder:
        try:
            loaded = _load(manifest, chosen, new, missing, Store(Path(folder)))
        except MachineError as error:
            # The engine may hold what a layer unpacks to, but compressed otherwise.
            if missing == old:
                raise
            if not all(one.place.has(one.descriptor) for one in old):
                raise MissingLayerError(f"{error} The image's layers have to be read whole for that.") from error
            out.detail(f"{error} Sending all layers.")
            missing = old
            loaded = _load(manifest, chosen, new, missing, Store(Path(folder)))
    # Only what is whole gets the name: until here an older image of that name is what it was.
    docker("tag", "--", loaded, name)
    moved = [*(blob.descriptor for blob in new), *(layer.descriptor for layer in missing)]
    whole = (*manifest.layers, manifest.config, chosen)
    return Moved(sum(one.size for one in moved), len(moved), sum(one.size for one in whole), len(whole))


def _load(
    manifest: ImageManifest, image: Descriptor, new: Sequence[Blob], layers: Sequence[Layer], spool: Store
) -> str:
    """Send these blobs and no others; what the engine calls the image, which has no name yet."""
    blobs = {blob.descriptor.digest: blob for blob in (*new, *(_brought(layer, spool) for layer in layers))}
    size = sum(blob.descriptor.size for blob in blobs.values())
    progress = out.progress(size, "docker load")
    with _process("load") as process:
        assert process.stdin is not None
        # An engine that refuses what it read stops reading; its own words are the error then.
        with suppress(BrokenPipeError):
            for path, data in _documents(manifest, image).items():
                _write(process.stdin, path, len(data), (data,))
            for blob in blobs.values():
                _write(process.stdin, _blob_path(blob.descriptor), blob.descriptor.size, blob.chunks(), progress)
            process.stdin.write(bytes(2 * tarfile.BLOCKSIZE))
            process.stdin.flush()
        with suppress(BrokenPipeError):
            process.stdin.close()
        answer = process.stdout.read().decode(errors="replace") if process.stdout else ""
    progress.close()
    found = _LOADED.search(answer)
    if found is None:
        raise MachineError(
            f"docker load did not say what it loaded ({last_line(answer)}); modelbake needs Docker 25 or newer."
        )
    return found[1]


def _brought(layer: Layer, spool: Store) -> Blob:
    """The layer's blob on this machine."""
    blob = layer.place.blob(layer.descriptor)
    if blob is None:
        with spool.adding():
            move(layer.place, [layer.descriptor], spool)
        blob = spool.blob(layer.descriptor)
    return blob


def _documents(manifest: ImageManifest, image: Descriptor) -> dict[str, bytes]:
    """What an archive has beside its blobs."""
    older = {
        "Config": _blob_path(manifest.config),
        "RepoTags": None,
        "Layers": [_blob_path(one) for one in manifest.layers],
    }
    return {
        "oci-layout": _LAYOUT,
        "index.json": encode(ImageIndex(2, (image,), IMAGE_INDEX)),
        "manifest.json": json.dumps([older]).encode(),
    }


def _blob_path(descriptor: Descriptor) -> str:
    return f"blobs/sha256/{descriptor.hex}"


def _write(to: IO[bytes], path: str, size: int, chunks: Iterable[bytes], progress: Progress = NO_PROGRESS) -> None:
    info = tarfile.TarInfo(path)
    info.size = size
    to.write(info.tobuf(tarfile.PAX_FORMAT))
    for chunk in chunks:
        to.write(chunk)
        progress.update(len(chunk))
    to.write(bytes(-size % tarfile.BLOCKSIZE))


def _for_engine(grafted: Grafted) -> Descriptor:
    if len(grafted.manifests) == 1:
        return grafted.manifests[0]
    server = json.loads(docker("version", "--format", "{{json .Server}}"))
    for one in grafted.manifests:
        if one.platform and (one.platform.os, one.platform.architecture) == (server["Os"], server["Arch"]):
            return one
    known = ", ".join(f"{one.platform.os}/{one.platform.architecture}" for one in grafted.manifests if one.platform)
    raise MachineError(
        f"The engine is {server['Os']}/{server['Arch']}, but the runtime is for {known}; graft into a registry or the store."
    )


def _held() -> set[str]:
    """What the layers of the engine's images unpack to; for layers that are not compressed this is their digest."""
    ids = sorted(set(docker("image", "ls", "--quiet", "--no-trunc").decode().split()))
    if not ids:
        return set()
    try:
        found = json.loads(docker("image", "inspect", *ids))
    except MachineError as error:
        # One was removed in between; then all layers are sent.
        out.detail(str(error))
        return set()
    return {layer for one in found for layer in one.get("RootFS", {}).get("Layers") or ()}


def _keep(store: Store, descriptor: Descriptor, file: IO[bytes], heads: bool) -> None:
    if heads and descriptor.size > MOST_MANIFEST_BYTES:
        head, tail = file.read(MOST_HEAD), b""
        while chunk := file.read(CHUNK):
            tail = (tail + chunk)[-_TAIL_BYTES:]
        store.path(descriptor).write_bytes(head + tail)
    else:
        store.add(_Streamed(descriptor, (), file))


@dataclass(frozen=True)
class _Streamed(Blob):
    """A blob that passes once; what takes it hashes it."""

    file: IO[bytes]

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        self.file.read(offset)
        while chunk := self.file.read(CHUNK):
            yield chunk


def _present(store: Store, root: Descriptor) -> Descriptor:
    """The image, or where the engine holds some platforms of an index only, an index of these."""
    if root.media_type not in INDEXES:
        return root
    listed = decode(store.read(root), ImageIndex, f"docker save: {root.digest}").manifests
    here = tuple(one for one in listed if _is_whole(store, one))
    if here == listed:
        return root
    data = encode(ImageIndex(2, here, IMAGE_INDEX))
    descriptor = descriptor_of(data, IMAGE_INDEX)
    store.add(of_bytes(data, descriptor))
    return descriptor


def _is_whole(store: Store, descriptor: Descriptor) -> bool:
    if not store.has(descriptor):
        return False
    found = decode(store.read(descriptor), ImageManifest, f"docker save: {descriptor.digest}")
    return all(store.path(one).exists() for one in (found.config, *found.layers))


@contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`docker ARGUMENTS` with pipes; an error with docker's own words where it fails, whatever was raised while it ran."""
    with tempfile.TemporaryFile() as messages:
        try:
            process = subprocess.Popen(
                ["docker", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages
            )
        except FileNotFoundError as error:
            raise MachineError(f"There is no docker client on this machine. {NO_ENGINE}") from error
        failure: Exception | None = None
        with process:
            try:
                yield process
            except (tarfile.TarError, OSError, EOFError) as error:
                failure = error
                process.kill()
            except BaseException:
                process.kill()
                raise
        messages.seek(0)
        said = last_line(messages.read().decode(errors="replace"))
        if process.returncode != 0 and any(word in said.lower() for word in _UNKNOWN) and arguments[0] == "save":
            raise UnknownNameError(
                f"The engine has no image {arguments[-1]!r} ({said}); `docker image ls` shows what it has."
            )
        if failure is not None or process.returncode != 0:
            told = str(failure) if failure is not None and process.returncode <= 0 else said
            hint = NO_ENGINE if "connect" in told else "Put that right, then run this again."
            raise MachineError(f"docker {arguments[0]} failed: {told}. {hint}") from failure
