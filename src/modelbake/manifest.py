"""The manifest, `models/model_manifest.json`: its structures, its schema, reading, merging and writing it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from modelbake.bundle import Name, Sha256, safe_relative_path
from modelbake.errors import IntegrityError, MachineError, UnknownNameError

SCHEMA_VERSION = 1
MANIFEST_NAME = "model_manifest.json"

Weights = Literal["pretrained", "trained", "sample"]
Role = Literal["text_encoder", "image_encoder", "reranker", "boundary_regressor"]


class FileRef(Struct, frozen=True, forbid_unknown_fields=True):
    """One file below the models folder: POSIX path, SHA-256 and size in bytes."""

    path: str
    sha256: Sha256
    size: Annotated[int, Meta(ge=0)]


class SourceRecord(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the bundle was made from: the source that was named first in the definition and every file's digest.

    Sources of pinned bytes are interchangeable, so which mirror happened to serve them is not recorded.
    """

    type: str
    files: tuple[FileRef, ...]
    repository: str | None = None
    commit: str | None = None
    seed: int | None = None


class Tensor(Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output of a graph; a dimension is a number, or a name where it is free."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class ImagePreprocessing(Struct, frozen=True, forbid_unknown_fields=True, tag="image", tag_field="type"):
    """How an image becomes float32 [3, size, size]: shortest side to `size`, centre crop, RGB, (x/255 - mean) / std."""

    size: Annotated[int, Meta(ge=1)]
    interpolation: Literal["bicubic", "bilinear"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Tokenizer(Struct, frozen=True, forbid_unknown_fields=True):
    """How text becomes token ids: the tokenizer's `format`, its file below the models folder, and the most tokens it gives."""

    format: Literal["clip-merges", "tokenizer.json"]
    path: str
    max_tokens: Annotated[int, Meta(ge=2)]


class Parity(Struct, frozen=True, forbid_unknown_fields=True):
    """The largest absolute difference from the goldens, rounded up to 1, 2 or 5 times a power of ten but never above its gate.

    Rounded, because the last bits depend on the processor and the manifest must not.
    """

    max_abs_diff: Annotated[float, Meta(ge=0)]
    gate: Annotated[float, Meta(gt=0)]
    cases: Annotated[int, Meta(ge=1)]


class Artifact(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file made for a runtime; `path`, `sha256` and `size` are the graph's, `external_data` the weights beside it."""

    path: str
    sha256: Sha256
    size: Annotated[int, Meta(ge=0)]
    format: Literal["onnx"]
    role: Role
    precision: Literal["fp32"]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parity: Parity
    tools: dict[str, str]
    external_data: tuple[FileRef, ...] = ()
    embedding_dimension: int | None = None
    normalized: bool | None = None
    activation: Annotated[
        str | None, Meta(description="The function of torch.nn inside the graph that makes the logit a score")
    ] = None
    preprocessing: ImagePreprocessing | None = None
    tokenizer: Tokenizer | None = None


class PassedOver(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A model that the bundle would rather have become, and why it did not.

    `unreachable`: no source of it could be reached, or none has its files; `unpinned`: its bytes are not pinned, and the build was
    `--locked`. Wrong bytes are no reason: they end a build.
    """

    model: str
    reason: Literal["unreachable", "unpinned"]
    repository: str | None = None


class FallbackRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """Which of its fallbacks a bundle became, and instead of which models, in their order."""

    model: str
    instead_of: Annotated[tuple[PassedOver, ...], Meta(min_length=1)]


class BundleEntry(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One bundle: what it is, what it came from, its artifacts and every file of it."""

    name: Name
    version: str
    kind: str
    description: str
    licence: str
    weights: Weights
    pinned: bool
    source: SourceRecord
    artifacts: Annotated[tuple[Artifact, ...], Meta(min_length=1)]
    goldens: FileRef
    files: tuple[FileRef, ...]
    digest: Sha256
    fallback: FallbackRecord | None = None

    def artifact(self, role: str) -> Artifact:
        """The artifact of that role; UnknownNameError where the bundle has none."""
        for artifact in self.artifacts:
            if artifact.role == role:
                return artifact
        roles = ", ".join(a.role for a in self.artifacts)
        raise UnknownNameError(f"The bundle {self.name!r} has no {role}; it has: {roles}.")


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a service may know of a models folder. No time stamps, no machine names: same inputs, same bytes."""

    schema_version: Annotated[int, Meta(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]
    bundles: tuple[BundleEntry, ...]

    def bundle(self, name: str) -> BundleEntry:
        """The bundle of that name; UnknownNameError where the manifest has none."""
        for entry in self.bundles:
            if entry.name == name:
                return entry
        known = ", ".join(b.name for b in self.bundles) or "none"
        raise UnknownNameError(f"The manifest has no bundle {name!r}. It has: {known}.")


def bundle_digest(files: tuple[FileRef, ...]) -> str:
    """SHA-256 over the lines `<sha256>  <path>\\n` of a bundle's files, sorted by path: it does not depend on packing."""
    lines = sorted(f"{f.sha256}  {f.path}\n" for f in files)
    lines.sort(key=lambda line: line[66:])
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def decode(data: bytes, where: str) -> Manifest:
    """A Manifest from its JSON.

    IntegrityError with the field's place where it does not fit or contradicts itself, RefusedError where a path leaves its folder.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"{where}: {error}. The manifest is damaged or of another schema version; build the bundles again with this modelbake."
        ) from error
    for entry in manifest.bundles:
        for ref in (*_files_named(entry), *entry.files, *entry.source.files):
            safe_relative_path(ref.path, f"{where}: {entry.name}")
        for artifact in entry.artifacts:
            if artifact.tokenizer is not None:
                safe_relative_path(artifact.tokenizer.path, f"{where}: {entry.name}")
    problems = _problems(manifest)
    if problems:
        raise IntegrityError(f"{where}: {'; '.join(problems)}. The manifest was changed; build the bundles again.")
    return manifest


def _files_named(entry: BundleEntry) -> list[FileRef]:
    """What the entry says, apart from its list of files, of the files that it has."""
    return [entry.goldens] + [
        ref for a in entry.artifacts for ref in (FileRef(a.path, a.sha256, a.size), *a.external_data)
    ]


def _problems(manifest: Manifest) -> list[str]:
    """Where the manifest contradicts itself: what is not in a bundle's list of files would not be verified, packed or copied."""
    names = [entry.name for entry in manifest.bundles]
    problems = [f"the bundle {name!r} is in it twice" for name in sorted({n for n in names if names.count(n) > 1})]
    for entry in manifest.bundles:
        listed = {ref.path: ref for ref in entry.files}
        if len(listed) != len(entry.files):
            problems.append(f"{entry.name} lists a file twice")
        problems += [
            f"{entry.name} uses {ref.path}, but its list of files has no such file of that digest and size"
            for ref in _files_named(entry)
            if listed.get(ref.path) != ref
        ]
        problems += [
            f"{entry.name} uses the tokenizer {a.tokenizer.path}, which is not in its list of files"
            for a in entry.artifacts
            if a.tokenizer is not None and a.tokenizer.path not in listed
        ]
    return problems


def read(models_dir: Path) -> Manifest:
    """The manifest of a models folder; MachineError where there is none or it cannot be read."""
    path = models_dir / MANIFEST_NAME
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MachineError(
            f"{path} does not exist, so there are no models here. "
            "Build some (`modelbake build`), or point --models-dir at a folder that has them."
        ) from error
    except OSError as error:
        raise MachineError(f"{path} cannot be read ({error.strerror}); give yourself the right to read it.") from error
    return decode(data, str(path))


def encode(manifest: Manifest) -> bytes:
    """The manifest's canonical bytes: JSON, two spaces, bundles by name, a newline at the end."""
    ordered = Manifest(manifest.schema_version, tuple(sorted(manifest.bundles, key=lambda b: b.name)))
    return msgspec.json.format(msgspec.json.encode(ordered, order="sorted"), indent=2) + b"\n"


def merge(manifests: list[Manifest]) -> Manifest:
    """One manifest of all; where two have a bundle of one name, the later's entry stays."""
    entries = {entry.name: entry for manifest in manifests for entry in manifest.bundles}
    return Manifest(SCHEMA_VERSION, tuple(entries[name] for name in sorted(entries)))


def write(models_dir: Path, manifest: Manifest) -> Path:
    """Write the manifest into `models_dir` by one atomic rename, and return its path."""
    path = models_dir / MANIFEST_NAME
    descriptor, temporary = tempfile.mkstemp(dir=models_dir, prefix=".manifest-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(encode(manifest))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def json_schema() -> dict[str, Any]:
    """The manifest's JSON Schema (2020-12), made from the structures above."""
    schema = msgspec.json.schema(Manifest)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "modelbake model manifest",
        **schema,
    }
