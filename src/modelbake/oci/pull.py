"""A bundle, or part of one, out of the store or a registry into a models folder.

The bytes go straight into the folder, hashed on their way: no second copy, and nothing visible before all of them are there. The
image's digest pins the layer of the bundle's manifest, that manifest every file, and the layer format all that is around a file in
its layer (LayerSink): so one pass over the bytes proves all of it. A file that is known to be there is not read again.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from modelbake import manifest
from modelbake.digests import Digests
from modelbake.errors import IntegrityError, UnknownNameError
from modelbake.files import disk_errors, sha256_of
from modelbake.install import lock_beside
from modelbake.install import place as install
from modelbake.manifest import Artifact, BundleEntry, FileRef
from modelbake.oci.download import download
from modelbake.oci.image import PLAIN, contents, images
from modelbake.oci.model import Descriptor
from modelbake.oci.place import Place
from modelbake.oci.repository import Repository
from modelbake.oci.sink import LayerSink
from modelbake.oci.transfer import Moved, at_once, bar
from modelbake.output import NO_PROGRESS, Progress

# Inside the models folder, so that a rename puts what is whole into place; a pull that was cut goes on with it.
GATHERING = ".pulling"


@dataclass(frozen=True)
class Wanted:
    """Which artifacts of a bundle are wanted; None is all."""

    format: str | None = None
    precision: str | None = None
    role: str | None = None

    def takes(self, artifact: Artifact) -> bool:
        """Whether the artifact is one of them."""
        return all(
            asked is None or asked == found
            for asked, found in (
                (self.format, artifact.format),
                (self.precision, artifact.precision),
                (self.role, artifact.role),
            )
        )


@dataclass(frozen=True)
class Found:
    """A bundle in a place: its entry, and the layer of each of its files by path."""

    entry: BundleEntry
    layers: dict[str, Descriptor]


def look(where: Place, root: Descriptor) -> list[Found]:
    """The bundles of an image, and which layer has which file. A bundle's files are the same on all platforms, so the first counts.

    IntegrityError where it holds none, or where a file has no layer of its own, as in an image of compressed layers.
    """
    image = next(images(where, root))
    found = contents(image, trusted=True)
    if found is None:
        raise IntegrityError(f"{image.where} holds no bundle: none of its layers is a models manifest. {PLAIN}")
    bundles = []
    for entry in found.manifest.bundles:
        layers = {ref.path: found.layer(ref) for ref in entry.files}
        lacking = [path for path, one in layers.items() if one is None]
        if lacking:
            raise IntegrityError(
                f"{image.where} lists {lacking[0]} of {entry.name}, but has no layer of its own for it. {PLAIN}"
            )
        listed = {path: one.descriptor for path, one in layers.items() if one}
        if len({one.digest for one in listed.values()}) != len(listed):
            raise IntegrityError(f"{image.where} gives one layer for two files of {entry.name}; bake or pack it again.")
        bundles.append(Found(entry, listed))
    return bundles


def part_of(entry: BundleEntry, wanted: Wanted) -> BundleEntry:
    """The entry with the wanted artifacts alone, and the files that they need; UnknownNameError where there is none of them.

    What no artifact names, such as a licence text, stays, and so do the goldens, so that `modelbake verify` works.
    """
    artifacts = tuple(one for one in entry.artifacts if wanted.takes(one))
    if not artifacts:
        has = ", ".join(f"{one.role} {one.precision} ({one.format})" for one in entry.artifacts)
        raise UnknownNameError(f"{entry.name} has no such artifact; it has: {has}.")
    if artifacts == entry.artifacts:
        return entry
    needed = {path for one in artifacts for path in _needs(one, entry)}
    others = {path for one in entry.artifacts for path in _needs(one, entry)} - needed
    files = tuple(ref for ref in entry.files if ref.path not in others)
    return replace(entry, artifacts=artifacts, files=files, digest=manifest.bundle_digest(files))


def pull(where: Place, found: Found, wanted: Wanted, models: Path, digests: Digests) -> Moved:
    """The bundle's wanted files into `models`, then its entry into the manifest there.

    One pull at a time into a folder; a second one finds what the first brought. IntegrityError where bytes are not those of their
    digest, MachineError where the disk does not take them: the folder then is as it was, and what came whole is not fetched again.
    """
    entry = part_of(found.entry, wanted)
    gathering = models / GATHERING
    sent: list[Descriptor] = []
    hashed: dict[str, int] = {}
    brought: list[FileRef] = []

    def holds(ref: FileRef) -> bool:
        path = models / ref.path
        plain = path.is_file() and not path.is_symlink() and path.stat().st_size == ref.size
        return plain and digests.sha256(path) == ref.sha256

    def bring(ref: FileRef, to: Path) -> None:
        if ref.path not in hashed:
            # It was here, and a build or another tool took it away meanwhile.
            gathering.mkdir(exist_ok=True)
            gather(ref, NO_PROGRESS)
        os.replace(gathering / found.layers[ref.path].hex, to)
        brought.append(ref)

    def gather(ref: FileRef, progress: Progress) -> bool:
        descriptor = found.layers[ref.path]
        gathered = gathering / descriptor.hex
        left = _left(gathered, ref)
        if left is None:
            _gather(where, ref, descriptor, gathering / f"{descriptor.hex}.partial", progress)
            sent.append(descriptor)
            left = gathered.stat().st_mtime_ns
        else:
            progress.update(descriptor.size)
        hashed[ref.path] = left
        return True

    total = [found.layers[ref.path] for ref in entry.files]
    if _is_installed(models, entry) and all(holds(ref) for ref in entry.files):
        return Moved(0, 0, sum(one.size for one in total), len(total))
    with disk_errors(models):
        models.mkdir(parents=True, exist_ok=True)
        with lock_beside(models, "pull.lock"):
            lacking = [ref for ref in entry.files if not holds(ref)]
            size = sum(found.layers[ref.path].size for ref in lacking)
            if lacking:
                gathering.mkdir(exist_ok=True)
            with bar(size, f"from {where}") as progress:
                at_once(lacking, lambda ref: gather(ref, progress), where)
            install(models, entry, holds, bring)
            digests.note({models / ref.path: ("", ref.sha256, hashed[ref.path]) for ref in brought})
            shutil.rmtree(gathering, ignore_errors=True)
    return Moved(sum(one.size for one in sent), len(sent), sum(one.size for one in total), len(total))


def _is_installed(models: Path, entry: BundleEntry) -> bool:
    if not (models / manifest.MANIFEST_NAME).exists():
        return False
    # Another bundle of its kind may have become the default since.
    return any(replace(one, default=entry.default) == entry for one in manifest.read(models).bundles)


def _left(gathered: Path, ref: FileRef) -> int | None:
    """When that file was changed last, if it is the listed one whole, left by a pull that was cut; None where it is not.

    Its name is no proof: it is the digest that the image of that pull gave for the layer.
    """
    try:
        stat = gathered.stat()
        return stat.st_mtime_ns if stat.st_size == ref.size and sha256_of(gathered) == ref.sha256 else None
    except FileNotFoundError:
        return None


def _gather(where: Place, ref: FileRef, descriptor: Descriptor, partial: Path, progress: Progress) -> None:
    """The file out of its layer, hashed, beside `partial` without that ending."""
    with LayerSink(partial, ref, descriptor) as sink:
        here = where.blob(descriptor)
        if here is None:
            assert isinstance(where, Repository)
            download(where, descriptor, sink, progress)
        else:
            sink.restart()
            for chunk in here.chunks():
                sink.write(chunk)
                progress.update(len(chunk))
            wrong = sink.wrong()
            if wrong:
                sink.restart()
                raise IntegrityError(
                    f"{where}: the blob {descriptor.digest} is damaged or not what it should be: {wrong}. `modelbake store verify` finds "
                    "all that are damaged."
                )
        sink.finish()
    os.replace(partial, partial.with_suffix(""))


def _needs(artifact: Artifact, entry: BundleEntry) -> set[str]:
    tokenizer = {artifact.tokenizer.path} if artifact.tokenizer else set()
    of_a_mac = {ref.path for ref in entry.files if artifact.coreml and artifact.coreml.is_of_a_mac(ref.path)}
    return {artifact.path, *(ref.path for ref in artifact.external_data)} | tokenizer | of_a_mac
