"""Stand-ins for what only a Mac has, each named so: the programs of macOS and Xcode, and Apple's runtime.

The programs are scripts on PATH that check their arguments as strictly as the real ones could. The runtime is a function of numpy.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from tokenizers import Tokenizer as FastTokenizer

from modelbake import goldens, manifest
from modelbake.files import file_ref
from modelbake.finish.report import PackageReport
from modelbake.finish.units import Unit
from modelbake.goldens import Arrays, Case
from modelbake.manifest import (
    Artifact,
    BundleEntry,
    CoremlPackage,
    Manifest,
    Parity,
    Precision,
    Quality,
    Tensor,
    Tokenizer,
)
from tests.unit import tiny

NAME = "tiny-coreml"
DIMENSION = 384
LENGTHS = (32, 64, 128)
TOKENIZER = f"tokenizers/{NAME}/tokenizer.json"
GOLDEN = f"goldens/{NAME}.npz"
PARITY_GATE = 1e-5
COSINE_GATE = 0.995
TEXTS = tiny.distinct_texts(24)

# What a package of coremltools holds, by path; here any bytes will do, since no runtime reads them.
PACKAGE_FILES = {
    "Manifest.json": b'{"fileFormatVersion": "1.0.0"}',
    "Data/com.apple.CoreML/model.mlmodel": b"program of ",
    "Data/com.apple.CoreML/weights/weight.bin": b"weights of ",
}

PROGRAMS = {
    "sysctl": """
known = {"hw.model": "Mac14,2", "machdep.cpu.brand_string": "Apple M2", "hw.memsize": "17179869184"}
flag, name = words
assert flag == "-n", words
print(known[name])
""",
    "sw_vers": """
print({"-productVersion": "15.6", "-buildVersion": "24G84"}[words[0]])
""",
    "xcodebuild": """
assert words == ["-version"], words
print("Xcode 16.4\\nBuild version 16F6")
""",
    "xcrun": """
import os, pathlib, shutil, sys
mode = pathlib.Path(__file__).with_name("mode").read_text()
if words == ["--find", "coremlcompiler"]:
    if mode == "no compiler":
        sys.exit('xcrun: error: unable to find utility "coremlcompiler", not a developer tool or in PATH')
    print("/Applications/Xcode.app/Contents/Developer/usr/bin/coremlcompiler")
elif words == ["coremlcompiler", "version"]:
    print("3404.16.1")
else:
    tool, verb, package, folder = words
    assert (tool, verb) == ("coremlcompiler", "compile"), words
    package, folder = pathlib.Path(package), pathlib.Path(folder)
    assert package.suffix == ".mlpackage" and (package / "Manifest.json").is_file(), package
    assert folder.is_dir(), folder
    if mode == "fails":
        sys.exit("coremlc: error: Error parsing MIL: unknown operator")
    if mode == "leaves nothing":
        sys.exit(0)
    compiled = folder / (package.stem + ".mlmodelc")
    shutil.copytree(package / "Data" / "com.apple.CoreML" / "weights", compiled / "weights")
    (compiled / "coremldata.bin").write_bytes(b"compiled " + package.name.encode())
    shutil.copyfile(package / "Data" / "com.apple.CoreML" / "model.mlmodel", compiled / "model.mil")
    if mode == "is newer":
        (compiled / "coremldata.bin").write_bytes(b"newly compiled " + package.name.encode())
        (compiled / "model.mil").rename(compiled / "model.milb")
    if mode == "leaves a link":
        os.symlink("/etc/passwd", compiled / "passwd")
    print(compiled / "coremldata.bin")
""",
}


def programs(folder: Path, mode: str = "works") -> None:
    """Write the stand-ins for sysctl, sw_vers, xcodebuild and xcrun into `folder`; `mode` is what xcrun does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mode").write_text(mode)
    for name, body in PROGRAMS.items():
        path = folder / name
        path.write_text(f"#!{sys.executable}\nimport sys\nwords = sys.argv[1:]\n{body}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)


def report(path: Path) -> PackageReport:
    """The host report in that file; msgspec's error where a field is missing or is none of its fields."""
    return msgspec.json.decode(path.read_bytes(), type=PackageReport)


def table() -> NDArray[np.float64]:
    return np.random.default_rng(7).normal(size=(len(tiny.WORDS), DIMENSION))


def embedding(inputs: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """Word vectors of input_ids [rows, length] added under attention_mask and scaled to length 1, float32 [rows, DIMENSION]."""
    total = (table()[inputs["input_ids"].astype(int)] * inputs["attention_mask"][..., np.newaxis]).sum(axis=1)
    unit: NDArray[np.float32] = (total / np.linalg.norm(total, axis=1, keepdims=True)).astype(np.float32)
    return unit


Change = Callable[[Arrays], Arrays]


@dataclass
class StandInPredictor:
    """Apple's runtime, played by `embedding`: it takes what the packages declare and nothing else.

    `changes` alters the outputs on a unit; `refuses` are units that cannot load. It notes every call.
    """

    changes: dict[Unit, Change] = field(default_factory=dict)
    refuses: tuple[Unit, ...] = ()
    plans: bool = True
    calls: list[tuple[str, Unit, tuple[int, ...]]] = field(default_factory=list)

    @property
    def versions(self) -> dict[str, str]:
        return {"stand-in for coremltools": "0"}

    def load(self, compiled: Path, unit: Unit) -> _Loaded:
        assert (compiled / "coremldata.bin").is_file()
        if unit in self.refuses:
            raise Exception("Error compiling model: program load failure")
        return _Loaded(self, compiled.name, unit)

    def placement(self, compiled: Path, unit: Unit) -> dict[str, int] | None:
        if not self.plans:
            raise RuntimeError("no plan")
        return {"cpu": 3, "gpu": 0, "neural_engine": 0}


@dataclass
class _Loaded:
    predictor: StandInPredictor
    name: str
    unit: Unit

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        assert {name: array.dtype for name, array in inputs.items()} == {
            "input_ids": np.dtype(np.int32),
            "attention_mask": np.dtype(np.int32),
        }
        shapes = {array.shape for array in inputs.values()}
        assert shapes <= {(1, length) for length in LENGTHS}
        assert len(shapes) == 1
        self.predictor.calls.append((self.name, self.unit, next(iter(shapes))))
        outputs: Arrays = {"embeddings": embedding(inputs)}
        change = self.predictor.changes.get(self.unit)
        return change(outputs) if change else outputs


def turned(by: float) -> Change:
    """Embeddings whose cosine with the true ones is 1 - `by`, and that are of length 1."""

    def change(outputs: Arrays) -> Arrays:
        found = outputs["embeddings"].astype(np.float64)
        other = np.random.default_rng(3).normal(size=found.shape)
        other -= (other * found).sum(axis=1, keepdims=True) * found
        other /= np.linalg.norm(other, axis=1, keepdims=True)
        cosine = 1 - by
        return {"embeddings": (cosine * found + np.sqrt(1 - cosine**2) * other).astype(np.float32)}

    return change


def bundle(models: Path, precisions: tuple[Precision, ...] = ("fp32", "int8")) -> BundleEntry:
    """A Core ML bundle in `models`, with its manifest: a package of any bytes for each precision, a tokenizer, goldens."""
    models.mkdir(parents=True, exist_ok=True)
    tiny.tokenizer_file(models / TOKENIZER)
    _write_goldens(models)
    artifacts = tuple(_artifact(models, precision) for precision in precisions)
    more = (TOKENIZER, *(ref.path for a in artifacts for ref in a.external_data))
    entry = tiny.entry_of(models, NAME, artifacts, GOLDEN, more)
    entry = replace(entry, kind="coreml_text_encoder")
    manifest.write(models, Manifest(manifest.SCHEMA_VERSION, (entry,)))
    return entry


def _write_goldens(models: Path) -> None:
    tokenizer = FastTokenizer.from_file(str(models / TOKENIZER))
    tokenizer.enable_padding(length=128, pad_id=0, pad_token="[PAD]")
    encodings = tokenizer.encode_batch(["red cat", *TEXTS])
    inputs: Arrays = {
        "input_ids": np.array([e.ids for e in encodings], np.int32),
        "attention_mask": np.array([e.attention_mask for e in encodings], np.int32),
    }
    outputs: Arrays = {"embeddings": embedding(inputs)}
    one = Case(
        "text_encoder",
        "one",
        {name: array[:1] for name, array in inputs.items()},
        {name: array[:1] for name, array in outputs.items()},
        {"text": np.array(["red cat"])},
    )
    many = goldens.evaluation_of_texts("text_encoder", TEXTS, {"embeddings": outputs["embeddings"][1:]})
    # Here the variant gives what the reference gives.
    own = Case(goldens.own_role("text_encoder", "int8"), "one", one.inputs, one.outputs)
    goldens.write(models / GOLDEN, [one, many, own])


def _artifact(models: Path, precision: Precision) -> Artifact:
    package = "coreml/Tiny.mlpackage" if precision == "fp32" else f"coreml/Tiny_{precision}.mlpackage"
    for path, data in PACKAGE_FILES.items():
        file = models / package / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data + precision.encode())
    refs = {path: file_ref(models, f"{package}/{path}") for path in PACKAGE_FILES}
    graph = refs.pop("Data/com.apple.CoreML/model.mlmodel")
    fp32 = precision == "fp32"
    return Artifact(
        path=graph.path,
        sha256=graph.sha256,
        size=graph.size,
        format="coreml",
        role="text_encoder",
        precision=precision,
        inputs=tuple(Tensor(name, "int32", (1, "sequence")) for name in ("input_ids", "attention_mask")),
        outputs=(Tensor("embeddings", "float32", (1, DIMENSION)),),
        tools={"coremltools": "9.0"},
        parity=Parity(1e-6, PARITY_GATE, 1) if fp32 else None,
        quality=None if fp32 else Quality(0.999, COSINE_GATE, 0.99, 0.95, len(TEXTS)),
        external_data=tuple(refs.values()),
        embedding_dimension=DIMENSION,
        normalized=True,
        tokenizer=Tokenizer("tokenizer.json", TOKENIZER, tiny.MAX_TOKENS),
        coreml=CoremlPackage(package, {"macOS": "13.0", "iOS": "16.0"}, LENGTHS),
    )
