"""The definition of a bundle: `bundles/<name>/bundle.toml` read into frozen structures."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from modelbake.errors import IntegrityError, RefusedError

SCHEMA_VERSION = 1

# Patterns end in "$(?!\n)": Python's "$" alone also matches before a newline at the end.
Sha256 = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)", description="SHA-256 of the file's bytes, in lower-case hexadecimal")
]
# No dots: names are part of bake's target names, which have none.
Name = Annotated[str, Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$(?!\n)", max_length=64)]
# Of one content. No longer numbers than Python reads.
Version = Annotated[str, Meta(pattern=r"^[0-9]{1,18}\.[0-9]{1,18}\.[0-9]{1,18}$(?!\n)")]
# Xcode makes a Swift class of that name.
PackageName = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]*$(?!\n)", max_length=64)]


class FilePin(Struct, frozen=True, forbid_unknown_fields=True):
    """One file that a bundle is made from; `sha256` and `size` (bytes) are absent where nobody could look them up yet."""

    path: str
    sha256: Sha256 | None = None
    size: Annotated[int, Meta(ge=0)] | None = None


class HubSource(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="hub", tag_field="type"):
    """A Hugging Face model repository at a revision: a commit where it is pinned, else a branch or tag.

    `follow` is the branch or tag that `modelbake lock --update` takes the next commit from.
    """

    repository: str
    revision: str
    follow: str | None = None


class WheelSource(Struct, frozen=True, forbid_unknown_fields=True, tag="wheel", tag_field="type"):
    """A wheel on the package index that pip is configured with; `prefix` is the folder inside it."""

    package: str
    version: str
    prefix: str = ""


class UrlSource(Struct, frozen=True, forbid_unknown_fields=True, tag="url", tag_field="type"):
    """A web address that ends in '/', below which the files stand under their own paths."""

    url: Annotated[str, Meta(pattern=r"^https?://\S*/$(?!\n)")]


class LocalSource(Struct, frozen=True, forbid_unknown_fields=True, tag="local", tag_field="type"):
    """A folder of this project, given from its root."""

    folder: str


class SampleSource(Struct, frozen=True, forbid_unknown_fields=True, tag="sample", tag_field="type"):
    """Weights drawn from a fixed seed in the true architecture, for machines that reach no hub."""

    seed: int


SourceSpec = HubSource | WheelSource | UrlSource | LocalSource | SampleSource


class ClipModel(Struct, frozen=True, forbid_unknown_fields=True, tag="clip", tag_field="kind"):
    """An open_clip model, exported as a text and an image encoder.

    `model` is the name people use (ViT-B/32) and that file names carry; `architecture` is open_clip's name of its configuration,
    and `pretrained` the name of the weights in open_clip's table, which knows their image preprocessing and activation.
    """

    model: str
    architecture: str
    pretrained: str | None = None
    weights: str = "open_clip_model.safetensors"


class TextEncoderModel(Struct, frozen=True, forbid_unknown_fields=True, tag="text_encoder", tag_field="kind"):
    """A sentence-transformers model: transformer, pooling and normalisation in one graph.

    `architecture` holds the BERT configuration's numbers, from which `sample` weights are drawn, and `pooling` how these pool.
    """

    model: str
    max_tokens: Annotated[int, Meta(ge=2)]
    architecture: dict[str, int | float | str] = {}
    pooling: Literal["mean", "cls"] = "mean"


class CoremlTextEncoderModel(
    TextEncoderModel, frozen=True, forbid_unknown_fields=True, tag="coreml_text_encoder", tag_field="kind"
):
    """A sentence-transformers model of the BERT family as Core ML packages that take one text at a time.

    `package` is what the .mlpackage is called, and `lengths` the sequence lengths that it takes, in tokens, the longest last; a
    text is padded to the next one.
    """

    package: PackageName = "Model"
    lengths: Annotated[tuple[Annotated[int, Meta(ge=2)], ...], Meta(min_length=1)] = (128,)


class CoremlClipModel(ClipModel, frozen=True, forbid_unknown_fields=True, tag="coreml_clip", tag_field="kind"):
    """An open_clip model as Core ML packages, `<package>_text` and `<package>_image`, that take one text or image at a time."""

    package: PackageName = "Model"


class CrossEncoderModel(Struct, frozen=True, forbid_unknown_fields=True, tag="cross_encoder", tag_field="kind"):
    """A sentence-transformers CrossEncoder with one label: a query and a document in, one score out.

    `max_tokens` bounds a pair. `architecture` holds config.json's numbers, from which `sample` weights are drawn; its `model_type`
    is bert (also where it is left out), roberta or distilbert.
    """

    model: str
    max_tokens: Annotated[int, Meta(ge=4)]
    architecture: dict[str, int | float | str] = {}


class BoundaryRegressorModel(
    Struct, frozen=True, forbid_unknown_fields=True, tag="boundary_regressor", tag_field="kind"
):
    """A network that adjusts a video segment's start and end, trained at build time from `data`."""

    model: str
    data: str
    seed: int = 0
    epochs: Annotated[int, Meta(ge=1)] = 200


ModelSpec = (
    ClipModel | TextEncoderModel | CoremlClipModel | CoremlTextEncoderModel | CrossEncoderModel | BoundaryRegressorModel
)


class Fallback(Struct, frozen=True, forbid_unknown_fields=True):
    """A model that a bundle becomes where no source has the files of those before it; the fields are the bundle's."""

    model: ModelSpec
    licence: str
    sources: Annotated[tuple[SourceSpec, ...], Meta(min_length=1)]
    files: Annotated[tuple[FilePin, ...], Meta(min_length=1)]
    pinned: bool = True


class Gates(Struct, frozen=True, forbid_unknown_fields=True):
    """The bounds that every artifact must keep against its goldens; above 1 a bound says nothing."""

    max_abs_diff: Annotated[float, Meta(gt=0, le=1)] = 1e-5


class QualityGates(Struct, frozen=True, forbid_unknown_fields=True):
    """What a smaller variant must reach on the bundle's evaluation set: both are means over its items, at most 1.

    The overlap is of each item's ten nearest others by the variant's embeddings and by the reference's.
    """

    mean_cosine: Annotated[float, Meta(ge=-1, le=1)]
    top10_overlap: Annotated[float, Meta(ge=0, le=1)]


class Fp16Variant(Struct, frozen=True, forbid_unknown_fields=True, tag="fp16", tag_field="precision"):
    """Weights kept as float16 and widened when the graph is loaded: half the file, and float32 arithmetic.

    `roles` names the artifacts it is made of; empty means all.
    """

    roles: tuple[str, ...] = ()
    gates: QualityGates = QualityGates(mean_cosine=0.99999, top10_overlap=0.99)


class Int8Variant(Struct, frozen=True, forbid_unknown_fields=True, tag="int8", tag_field="precision"):
    """Weights of eight bits, multiplied as integers with activations that are quantized on the way.

    `method`: blockwise has a scale for every `block` numbers of each row of weights and of activations; dynamic has one for each
    row of weights and one for all activations of a call, whose outliers then cost precision, but is faster. `reduce_range`
    (dynamic alone) keeps weights to seven bits, so that processors without VNNI compute the same. Linear layers whose node's name
    matches one of the regular expressions `keep_fp32` stay as they are.
    """

    roles: tuple[str, ...] = ()
    method: Literal["blockwise", "dynamic"] = "blockwise"
    block: Literal[16, 32, 64, 128, 256] = 128
    reduce_range: bool = True
    keep_fp32: tuple[str, ...] = ()
    gates: QualityGates = QualityGates(mean_cosine=0.995, top10_overlap=0.95)


class FourBitVariant(Struct, frozen=True, forbid_unknown_fields=True, tag="4bit", tag_field="precision"):
    """Core ML's alone: weights as indices of four bits into palettes, more bits where the model is sensitive."""

    roles: tuple[str, ...] = ()
    gates: QualityGates = QualityGates(mean_cosine=0.98, top10_overlap=0.8)


Variant = Fp16Variant | Int8Variant | FourBitVariant


class Bundle(Struct, frozen=True, forbid_unknown_fields=True):
    """One model, named and versioned, as its bundle.toml defines it.

    `pinned` says whether every file has its sha256 and every hub revision is a commit; `--locked` builds refuse the others.
    fp32 artifacts are always made, `variants` beside them. `evaluation` holds texts that the variants are measured on; a catalog
    takes them from the lines of evaluation.txt beside bundle.toml.
    `default` marks the bundle that stands for its kind where a kind is named; a kind has one at most.
    """

    schema_version: int
    name: Name
    version: Version
    description: str
    licence: str
    model: ModelSpec
    sources: Annotated[tuple[SourceSpec, ...], Meta(min_length=1)]
    files: Annotated[tuple[FilePin, ...], Meta(min_length=1)]
    pinned: bool = True
    default: bool = False
    gates: Gates = Gates()
    variants: tuple[Variant, ...] = ()
    evaluation: tuple[str, ...] = ()
    fallbacks: tuple[Fallback, ...] = ()

    @property
    def candidates(self) -> tuple[Bundle, ...]:
        """The models that it may become, in order of preference: its own first, then its fallbacks'; none has fallbacks itself."""
        own = replace(self, fallbacks=())
        others = (
            replace(own, model=f.model, licence=f.licence, sources=f.sources, files=f.files, pinned=f.pinned)
            for f in self.fallbacks
        )
        return (own, *others)

    @property
    def kind(self) -> str:
        """The family that exports and runs it, such as clip or text_encoder."""
        return str(type(self.model).__struct_config__.tag)

    @property
    def is_coreml(self) -> bool:
        """Whether its artifacts are Core ML packages."""
        return isinstance(self.model, CoremlClipModel | CoremlTextEncoderModel)

    @property
    def sample_source(self) -> SampleSource | None:
        return next((s for s in self.sources if isinstance(s, SampleSource)), None)

    @property
    def digest(self) -> str:
        """SHA-256 of the definition itself, whatever its file's white space and comments."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


def refuse_unpinned(bundles: Iterable[Bundle]) -> None:
    """RefusedError that names the bundles which are not pinned, where there are some."""
    names = [bundle.name for bundle in bundles if not bundle.pinned]
    if names:
        raise RefusedError(
            f"{', '.join(names)}: pinned = false, and --locked takes pinned bytes alone. Where the hub can be reached, "
            f"`modelbake lock {' '.join(names)}` looks them up and writes them into bundle.toml; or leave out what is not pinned."
        )


def safe_relative_path(path: str, what: str) -> PurePosixPath:
    """`path` as a relative POSIX path that stays below its root; anything else raises RefusedError, naming `what` holds it."""
    pure = PurePosixPath(path)
    # No control characters: a bundle's digest is taken over lines that hold the paths.
    strange = "\\" in path or any(ord(character) < 32 or ord(character) == 127 for character in path)
    if strange or not pure.parts or pure.is_absolute() or ".." in pure.parts or str(pure) != path:
        raise RefusedError(
            f"{what} names the path {path!r}, which is not a plain path below its folder; correct it there."
        )
    return pure


def parse_bundle(text: str, where: str) -> Bundle:
    """A Bundle from bundle.toml's text.

    IntegrityError with the field's place where it does not fit, RefusedError where a path leaves its folder.
    """
    try:
        bundle = msgspec.toml.decode(text, type=Bundle)
    except msgspec.DecodeError as error:
        raise IntegrityError(
            f"{where}: {error}. Correct the definition; docs/bundles.md describes every field."
        ) from error
    problems = _problems(bundle)
    for number, fallback in enumerate(bundle.candidates[1:], 1):
        problems += [f"fallback {number}: {problem}" for problem in _fallback_problems(bundle, fallback)]
    if problems:
        raise IntegrityError(
            f"{where}: {'; '.join(problems)}. Correct the definition; docs/bundles.md describes every field."
        )
    for number, candidate in enumerate(bundle.candidates):
        _check_paths(candidate, f"{where}: fallbacks[{number - 1}]." if number else f"{where}: ")
    return bundle


def _check_paths(bundle: Bundle, place: str) -> None:
    for index, pin in enumerate(bundle.files):
        safe_relative_path(pin.path, f"{place}files[{index}].path")
    for index, source in enumerate(bundle.sources):
        if isinstance(source, LocalSource):
            safe_relative_path(source.folder, f"{place}sources[{index}].folder")
    # File names are made of it.
    safe_relative_path(bundle.model.model, f"{place}model.model")


def _fallback_problems(bundle: Bundle, fallback: Bundle) -> list[str]:
    problems = _file_problems(fallback)
    if fallback.kind != bundle.kind:
        problems.append(f"the model is a {fallback.kind}, the bundle is a {bundle.kind}")
    if fallback.sample_source is not None:
        problems.append("sample weights are drawn for the bundle's own model alone; take that source out")
    # The number of an image's layers is written down beforehand.
    if len(fallback.files) != len(bundle.files):
        problems.append(f"it has {len(fallback.files)} files, the bundle's own model has {len(bundle.files)}")
    return problems


def _problems(bundle: Bundle) -> list[str]:
    problems = _file_problems(bundle)
    if bundle.schema_version != SCHEMA_VERSION:
        problems.insert(0, f"schema_version is {bundle.schema_version}, this modelbake reads {SCHEMA_VERSION}")
    models = [candidate.model.model for candidate in bundle.candidates]
    problems += [f"the model {model!r} is there twice" for model in sorted({m for m in models if models.count(m) > 1})]
    return problems


def _file_problems(bundle: Bundle) -> list[str]:
    problems = []
    paths = [pin.path for pin in bundle.files]
    problems += [f"file {path!r} is listed twice" for path in sorted({p for p in paths if paths.count(p) > 1})]
    match bundle.model:
        case ClipModel(weights=path) | BoundaryRegressorModel(data=path) if path not in paths:
            problems.append(f"the model is made from {path!r}, which is not among the files")
    problems += _variant_problems(bundle.variants)
    if bundle.is_coreml:
        problems += _coreml_problems(bundle)
    elif any(isinstance(variant, FourBitVariant) for variant in bundle.variants):
        problems.append("a variant of 4bit is Core ML's alone")
    if bundle.pinned:
        problems += [
            f"file {pin.path!r} has no sha256 although pinned = true (`modelbake lock` fills in what is pinned = false)"
            for pin in bundle.files
            if pin.sha256 is None
        ]
        problems += [
            f"revision {source.revision!r} of {source.repository} is no commit although pinned = true"
            for source in bundle.sources
            if isinstance(source, HubSource) and not re.fullmatch("[0-9a-f]{40}", source.revision)
        ]
    return problems


def _coreml_problems(bundle: Bundle) -> list[str]:
    model = bundle.model
    problems = []
    if isinstance(model, CoremlTextEncoderModel) and (
        list(model.lengths) != sorted(set(model.lengths)) or model.lengths[-1] > model.max_tokens
    ):
        problems.append(f"lengths must grow, and end at max_tokens ({model.max_tokens}) at most")
    for variant in bundle.variants:
        plain = type(variant)(roles=variant.roles, gates=variant.gates)
        if variant != plain:
            problems.append("a Core ML variant has no settings but roles and gates")
    return problems


def _variant_problems(variants: tuple[Variant, ...]) -> list[str]:
    problems = []
    for precision, kind in (("fp16", Fp16Variant), ("int8", Int8Variant), ("4bit", FourBitVariant)):
        same = [variant for variant in variants if isinstance(variant, kind)]
        roles = [role for variant in same for role in variant.roles]
        # Two of one precision and role would be one file.
        if len(same) > 1 and (len(set(roles)) < len(roles) or any(not variant.roles for variant in same)):
            problems.append(f"two variants of {precision} are of one role")
    for pattern in (p for v in variants if isinstance(v, Int8Variant) for p in v.keep_fp32):
        try:
            re.compile(pattern)
        except re.error as error:
            problems.append(f"keep_fp32 holds {pattern!r}, which is no regular expression ({error})")
    return problems
