"""All packages of one encoder: fp32 and the bundle's smaller variants, with what each of these gives itself."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from modelbake import goldens
from modelbake.bundle import Fp16Variant, Int8Variant, Variant
from modelbake.coreml.package import Feature, open_package
from modelbake.coreml.runner import Runner
from modelbake.errors import UsageError
from modelbake.export.artifact import Draft, tool_versions
from modelbake.export.coreml import compress
from modelbake.export.coreml.calibrate import Calibration, Inputs
from modelbake.export.coreml.convert import Target, convert, oldest
from modelbake.export.coreml.encoders import Encoder
from modelbake.goldens import Case
from modelbake.manifest import CoremlPackage, ImagePreprocessing, Precision, Role, Tensor, Tokenizer

FOLDER = PurePosixPath("coreml")
# Model.proto's specificationVersion and the systems that load it first.
_SYSTEMS = {7: ("16.0", "13.0"), 8: ("17.0", "14.0"), 9: ("18.0", "15.0")}


def make(
    chosen: Iterable[Variant],
    name: str,
    role: Role,
    encoder: Encoder,
    out: Path,
    cases: Sequence[Case],
    tokenizer: Tokenizer | None = None,
    preprocessing: ImagePreprocessing | None = None,
    calibration: Callable[[], list[Inputs]] | None = None,
) -> tuple[list[Draft], list[Case]]:
    """Write the packages `name`.mlpackage and `name`_<precision>.mlpackage of those variants that are of the role into `out`/coreml.

    `calibration` gives the module's inputs that 4bit measures its weights' sensitivity with; UsageError where it is wanted without.

    Returns a draft of each, and for each smaller one cases that hold what it gives itself for the inputs of `cases`.
    """
    whole = out / FOLDER / f"{name}.mlpackage"
    whole.parent.mkdir(parents=True, exist_ok=True)
    convert(encoder.module, encoder.inputs, encoder.output, whole)
    drafts = [_draft(out, whole, "fp32", role, encoder, tokenizer, preprocessing)]
    own: list[Case] = []
    with tempfile.TemporaryDirectory(dir=whole.parent) as folder:
        halves = _Halves(encoder, Path(folder))
        for variant in chosen:
            if role not in (variant.roles or (role,)):
                continue
            precision: Precision = variant.__struct_config__.tag  # type: ignore[assignment]
            path = whole.with_name(f"{name}_{precision}.mlpackage")
            _write(variant, path, halves, calibration)
            drafts.append(_draft(out, path, precision, role, encoder, tokenizer, preprocessing))
            own += _own_cases(path, goldens.own_role(role, precision), (case for case in cases if case.role == role))
    return drafts, own


@dataclass(frozen=True)
class _Halves:
    """The encoder's fp16 packages, in `folder`: each is converted once, however many variants are made of it."""

    encoder: Encoder
    folder: Path

    def package(self, target: Target | None = None) -> Path:
        """The one for that system, by default the oldest that can load it."""
        target = target or oldest(self.encoder.inputs)
        path = self.folder / f"{target}.mlpackage"
        if not path.exists():
            convert(self.encoder.module, self.encoder.inputs, self.encoder.output, path, "fp16", target)
        return path


def _write(variant: Variant, path: Path, halves: _Halves, calibration: Callable[[], list[Inputs]] | None) -> None:
    """All with float16 arithmetic, which is what Apple's GPU and Neural Engine have anyway."""
    if isinstance(variant, Fp16Variant):
        shutil.copytree(halves.package(), path)
    elif isinstance(variant, Int8Variant):
        compress.to_int8(halves.package(), path)
    elif calibration is None:
        raise UsageError(f"{path.name}: this kind of encoder has no 4bit variant yet; take it out of the bundle.toml.")
    else:
        # The first system that keeps several palettes for a weight.
        half = halves.package("iOS18")
        measured = Calibration(halves.encoder.module, calibration())
        compress.to_palettes(half, path, measured, compress.measure(half, measured).recipe())


def _own_cases(package: Path, role: str, cases: Iterable[Case]) -> list[Case]:
    runner = Runner(package, rounded=False)
    return [Case(role, case.name, case.inputs, runner.run(case.inputs)) for case in cases if case.inputs]


def _draft(
    out: Path,
    path: Path,
    precision: Precision,
    role: Role,
    encoder: Encoder,
    tokenizer: Tokenizer | None,
    preprocessing: ImagePreprocessing | None,
) -> Draft:
    package = open_package(path)
    model = package.model.relative_to(out).as_posix()
    files = (one.relative_to(out).as_posix() for one in package.files())
    ios, macos = _SYSTEMS[package.spec.specificationVersion]
    lengths = sorted(
        {shape[1] for one in package.inputs if one.dtype == "int32" for shape in one.shapes or (one.shape,)}
    )
    return Draft(
        path=model,
        role=role,
        inputs=tuple(_tensor(one) for one in package.inputs),
        outputs=tuple(_tensor(one) for one in package.outputs),
        tools=tool_versions("coremltools", "torch"),
        external_data=tuple(one for one in files if one != model),
        embedding_dimension=encoder.dimension,
        normalized=True,
        preprocessing=preprocessing,
        tokenizer=tokenizer,
        precision=precision,
        format="coreml",
        coreml=CoremlPackage(path.relative_to(out).as_posix(), {"iOS": ios, "macOS": macos}, tuple(lengths)),
    )


def _tensor(feature: Feature) -> Tensor:
    shape: tuple[int | str, ...] = feature.shape
    if feature.shapes:
        free = {axis for axis in range(len(shape)) if len({one[axis] for one in feature.shapes}) > 1}
        shape = tuple("sequence" if axis in free else size for axis, size in enumerate(feature.shape))
    return Tensor(feature.name, feature.dtype, shape)
