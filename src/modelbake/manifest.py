"""The manifest, `models/model_manifest.json`: its structures, its schema, reading, merging and writing it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from modelbake.bundle import Name, Sha256, Version, safe_relative_path
from modelbake.errors import IntegrityError, MachineError, UnknownNameError

SCHEMA_VERSION = 1
MANIFEST_NAME = "model_manifest.json"

Weights = Literal["pretrained", "trained", "sample"]
Role = Literal["text_encoder", "image_encoder", "reranker", "boundary_regressor"]
Precision = Literal["fp32", "fp16", "int8", "4bit"]
Format = Literal["onnx", "coreml"]


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


class Quality(Struct, frozen=True, forbid_unknown_fields=True):
    """What a smaller variant keeps of the reference's embeddings on the bundle's evaluation set of `items` texts or images.

    `mean_cosine` is that of each embedding with the reference's; `top10_overlap` the mean share of an item's ten nearest others
    that are so by the reference too. Both are rounded down, coarsely but never below their gates, because the last digits
    depend on the processor and the manifest must not.
    """

    mean_cosine: float
    mean_cosine_gate: float
    top10_overlap: float
    top10_overlap_gate: float
    items: Annotated[int, Meta(ge=1)]


class CoremlPackage(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a Core ML artifact is beside its graph: its folder `package` below the models folder, all of whose files it needs.

    `minimum_os` are the systems that can load it, by their names at Apple (iOS, macOS). `lengths` are the sequence lengths that a
    text encoder takes. `verified_on` says where its goldens were replayed: `linux` proves graph, weights and quantization, not
    Apple's runtime; `apple` a Mac's own Core ML, whose measurements are in `report`. `compiled` is the folder of the .mlmodelc
    that this Mac made of it.
    """

    package: str
    minimum_os: dict[str, str]
    lengths: tuple[int, ...] = ()
    verified_on: Literal["linux", "apple"] = "linux"
    compiled: str | None = None
    report: str | None = None

    def is_of_a_mac(self, path: str) -> bool:
        """Whether the file `path` is what a Mac added: the report, or a file of the compiled folder."""
        return path == self.report or self.compiled in [str(parent) for parent in PurePosixPath(path).parents]


class Artifact(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file made for a runtime; `path`, `sha256` and `size` are the graph's, `external_data` what lies beside it and belongs to it.

    fp32 artifacts have `parity`, smaller variants `quality`; those of Core ML have `coreml`.
    """

    path: str
    sha256: Sha256
    size: Annotated[int, Meta(ge=0)]
    format: Format
    role: Role
    precision: Precision
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tools: dict[str, str]
    parity: Parity | None = None
    quality: Quality | None = None
    external_data: tuple[FileRef, ...] = ()
    embedding_dimension: int | None = None
    normalized: bool | None = None
    activation: Annotated[
        str | None, Meta(description="The function of torch.nn inside the graph that makes the logit a score")
    ] = None
    preprocessing: ImagePreprocessing | None = None
    tokenizer: Tokenizer | None = None
    coreml: CoremlPackage | None = None

    @property
    def sequence_lengths(self) -> tuple[int, ...]:
        """The lengths that a text encoder takes, shortest first: its package's, or that of its fixed shape; else IntegrityError."""
        fixed = (tensor.shape[-1] for tensor in self.inputs if tensor.name == "input_ids" and tensor.shape)
        found = (self.coreml.lengths if self.coreml else ()) or tuple(size for size in fixed if isinstance(size, int))
        if not found:
            raise IntegrityError(f"{self.path}: the manifest gives no length of its texts; build the bundle again.")
        return tuple(sorted(found))


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
    version: Version
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
    default: bool = False
    fallback: FallbackRecord | None = None

    def artifact(self, role: str, precision: str | None = None) -> Artifact:
        """The artifact of that role and precision; where none is asked for, fp32 if the bundle has it, else its only one.

        UnknownNameError where there is none, or several and none of them fp32.
        """
        found: dict[str, Artifact] = {a.precision: a for a in self.artifacts if a.role == role}
        if not found:
            roles = ", ".join(dict.fromkeys(a.role for a in self.artifacts))
            raise UnknownNameError(f"The bundle {self.name!r} has no {role}; it has: {roles}.")
        if precision is None:
            precision = next(iter(found)) if len(found) == 1 else "fp32"
        if precision in found:
            return found[precision]
        raise UnknownNameError(
            f"The bundle {self.name!r} has no {role} of {precision}; it has: {', '.join(found)}. Ask for one of these."
        )


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a service may know of a models folder. No time stamps, no machine names: same inputs, same bytes."""

    schema_version: Annotated[int, Meta(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]
    bundles: tuple[BundleEntry, ...]

    def bundle(self, name: str) -> BundleEntry:
        """The bundle of that name; UnknownNameError where the manifest has none."""
        for entry in self.bundles:
            if entry.name == name:
                return entry
        raise self._unknown(name)

    def bundle_or_default(self, name: str) -> BundleEntry:
        """The bundle of that name, or for the name of a kind its default bundle, or the only one of that kind.

        UnknownNameError where the manifest has none, or several of that kind with no default among them.
        """
        of_kind = [entry for entry in self.bundles if entry.kind == name]
        named = [entry for entry in self.bundles if entry.name == name]
        candidates = named or [entry for entry in of_kind if entry.default] or of_kind
        if not candidates:
            raise self._unknown(name)
        if len(candidates) > 1:
            names = ", ".join(entry.name for entry in candidates)
            raise UnknownNameError(f"The manifest has no default bundle of the kind {name}; name one of: {names}.")
        return candidates[0]

    def _unknown(self, name: str) -> UnknownNameError:
        known = ", ".join(b.name for b in self.bundles) or "none"
        return UnknownNameError(f"The manifest has no bundle {name!r}. It has: {known}.")


def bundle_digest(files: tuple[FileRef, ...]) -> str:
    """SHA-256 over the lines `<sha256>  <path>\\n` of a bundle's files, sorted by path: it does not depend on packing."""
    lines = sorted((f"{f.sha256}  {f.path}\n" for f in files), key=lambda line: (line[66:], line))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def decode(data: bytes, where: str) -> Manifest:
    """A Manifest from its JSON.

    IntegrityError with the field's place where it does not fit or contradicts itself, RefusedError where a path leaves its folder.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"{where}: {error}. The manifest is damaged or of another schema version; "
            "take it away and build the bundles again with this modelbake."
        ) from error
    for entry in manifest.bundles:
        named = [ref.path for ref in (*_files_named(entry), *entry.files, *entry.source.files)]
        named += [a.tokenizer.path for a in entry.artifacts if a.tokenizer]
        packages = (a.coreml for a in entry.artifacts if a.coreml)
        named += [path for one in packages for path in (one.package, one.compiled, one.report) if path is not None]
        for path in named:
            safe_relative_path(path, f"{where}: {entry.name}")
    problems = _problems(manifest)
    if problems:
        raise IntegrityError(
            f"{where}: {'; '.join(problems)}. The manifest was changed; take it away and build the bundles again."
        )
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
    defaults = [entry.kind for entry in manifest.bundles if entry.default]
    problems += [f"the kind {kind} has two defaults" for kind in sorted({k for k in defaults if defaults.count(k) > 1})]
    taken = {ref.path: one.name for one in manifest.bundles for ref in one.files} | {MANIFEST_NAME: "the manifest"}
    for entry in manifest.bundles:
        listed = {ref.path: ref for ref in entry.files}
        problems += [
            f"{entry.name} lists {ref.path}, but {inside} of {taken[inside]} is a file"
            for ref in entry.files
            for inside in map(str, PurePosixPath(ref.path).parents)
            if inside in taken
        ]
        if MANIFEST_NAME in listed:
            problems.append(f"{entry.name} lists {MANIFEST_NAME} itself")
        problems += [
            f"{a.path} has the format {a.format} and {'no' if a.coreml is None else 'a'} Core ML package"
            for a in entry.artifacts
            if (a.format == "coreml") != (a.coreml is not None)
        ]
        packages = [(a.path, a.coreml) for a in entry.artifacts if a.coreml is not None]
        problems += [
            f"{path} is not in its package {package.package}"
            for path, package in packages
            if PurePosixPath(package.package) not in PurePosixPath(path).parents
        ]
        problems += [
            f"{path} is verified on {one.verified_on}, which does not go with its report and compiled folder"
            for path, one in packages
            if (one.verified_on == "apple") != (one.report in listed and one.compiled is not None)
        ]
        problems += [
            f"{path} has its compiled model in {one.compiled}, which is no .mlmodelc with files beside its package"
            for path, one in packages
            if one.compiled is not None
            and not (
                one.compiled.endswith(".mlmodelc")
                and PurePosixPath(one.compiled).parent == PurePosixPath(one.package).parent
                and any(file.startswith(f"{one.compiled}/") for file in listed)
            )
        ]
        problems += [
            f"{a.path} has {'both' if a.parity else 'none'} of parity and quality"
            for a in entry.artifacts
            if (a.parity is None) == (a.quality is None)
        ]
        if len(listed) != len(entry.files):
            problems.append(f"{entry.name} lists a file twice")
        if entry.digest != bundle_digest(entry.files):
            problems.append(f"the digest of {entry.name} is not that of its list of files")
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
    """One manifest of all; where two have a bundle of one name, the later's entry stays, and so does a kind's later default."""
    entries: dict[str, BundleEntry] = {}
    for new in (entry for manifest in manifests for entry in manifest.bundles):
        if new.default:
            entries |= {
                name: replace(old, default=False)
                for name, old in entries.items()
                if old.default and old.kind == new.kind
            }
        entries[new.name] = new
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
