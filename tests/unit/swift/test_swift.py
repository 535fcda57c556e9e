"""The Swift that is written: it says what the manifest says, its brackets close, and the docs show it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from modelbake import manifest
from modelbake.cli.main import run
from modelbake.errors import IntegrityError, UsageError
from modelbake.files import folder_digest
from modelbake.manifest import Artifact, BundleEntry, CoremlPackage, Manifest, Tensor
from modelbake.swift.source import swift_source
from tests.unit import tiny
from tests.unit.swift import made

ROOT = Path(__file__).resolve().parents[3]
SHOWN = ROOT / "docs" / "coreml-swift.md"
_STRING = re.compile(r'"(?:\\.|[^"\\\n])*"')
_COMMENT = re.compile(r"//[^\n]*")


@pytest.fixture
def entry(tmp_path: Path) -> BundleEntry:
    return made.bundle(tmp_path)


def swift(models: Path, entry: BundleEntry, **changes: object) -> str:
    """The Swift of the bundle's artifact, with these changes of it."""
    return swift_source(models, entry, replace(entry.artifacts[0], **changes))


def bare(source: str) -> str:
    """The source without comments and with empty strings."""
    return _COMMENT.sub("", _STRING.sub('""', source))


def brackets_close(source: str) -> bool:
    waiting = []
    for character in bare(source):
        if character in "([{":
            waiting.append(")]}"["([{".index(character)])
        elif character in ")]}" and (not waiting or waiting.pop() != character):
            return False
    return not waiting


def pairs(source: str, name: str) -> list[tuple[str, str]]:
    """The pairs in the array of that name."""
    body = re.search(rf"let {name}: \[\([^)]*\)\] = \[\n(.*?)\n    \]", source, re.DOTALL)
    assert body, name
    return re.findall(r'\("([^"]*)", "?([^")]*)"?\),', body[1])


def test_names_shapes_types_and_digests_are_the_manifest_s(tmp_path: Path, entry: BundleEntry) -> None:
    source = swift(tmp_path, entry)
    (artifact,) = entry.artifacts
    assert artifact.coreml is not None
    named = re.search(r"let inputs = (\[.*\])", source)
    assert named
    assert json.loads(named[1]) == [tensor.name for tensor in artifact.inputs]
    assert {f".{tensor.dtype}" for tensor in artifact.inputs} == set(re.findall(r"dataType: (\.\w+)\)", source))
    assert f'let output = "{artifact.outputs[0].name}"' in source
    assert f"let dimension = {artifact.outputs[0].shape[-1]}" in source
    assert f"let lengths = {list(artifact.coreml.lengths)}" in source
    listed = {f"{artifact.coreml.package}/{path}": sha256 for path, sha256 in pairs(source, "packageFiles")}
    package = {ref.path: ref.sha256 for ref in entry.files if ".mlpackage/" in ref.path}
    assert listed == package
    assert len(package) == 3
    digest = folder_digest(entry.files, artifact.coreml.package)
    assert f'packageDigest = "{digest}"' in source
    assert "@available(iOS 16.0, macOS 13.0, *)" in source
    (tokenizer,) = [ref for ref in entry.files if ref.path == made.TOKENIZER]
    assert f'sha256 = "{tokenizer.sha256}"' in source
    assert "mostTokens = 128" in source
    assert 'arrays["input_ids"]?[position]' in source
    assert 'arrays["attention_mask"]?[position]' in source


def test_the_digest_of_a_package_changes_with_each_of_its_files_and_not_with_its_place(entry: BundleEntry) -> None:
    (artifact,) = entry.artifacts
    assert artifact.coreml is not None
    package = artifact.coreml.package
    digest = folder_digest(entry.files, package)
    for ref in entry.files:
        changed = tuple(replace(one, sha256="0" * 64) if one is ref else one for one in entry.files)
        assert (folder_digest(changed, package) != digest) == ref.path.startswith(f"{package}/")
    moved = tuple(replace(ref, path=ref.path.replace(package, "elsewhere/P.mlpackage")) for ref in entry.files)
    assert folder_digest(moved, "elsewhere/P.mlpackage") == digest


def variants(artifact: Artifact) -> dict[str, dict[str, object]]:
    assert artifact.coreml is not None
    image, clip = made.image_artifact(artifact), made.clip_artifact(artifact)
    return {
        "text": {},
        "fp32": {"precision": "fp32"},
        "one length": {"coreml": replace(artifact.coreml, lengths=()), "inputs": _inputs(32)},
        "clip": {name: getattr(clip, name) for name in ("inputs", "tokenizer", "coreml")},
        "finished": {"coreml": replace(artifact.coreml, verified_on="apple")},
        "not of length 1": {"normalized": False},
        "image": {name: getattr(image, name) for name in ("role", "inputs", "tokenizer", "preprocessing")},
    }


def _inputs(length: int) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, "int32", (1, length)) for name in ("input_ids", "attention_mask"))


def _free_inputs() -> tuple[Tensor, ...]:
    return tuple(Tensor(name, "int32", (1, "sequence")) for name in ("input_ids", "attention_mask"))


@pytest.mark.parametrize("name", ["text", "fp32", "one length", "clip", "finished", "not of length 1", "image"])
def test_brackets_close_and_no_placeholder_is_left(tmp_path: Path, entry: BundleEntry, name: str) -> None:
    source = swift(tmp_path, entry, **variants(entry.artifacts[0])[name])
    assert brackets_close(source)
    assert not re.search(r"@[A-Z_]+@", source)
    assert not brackets_close(source.replace("}", "", 1))
    assert "\n\n\n" not in source
    assert source.endswith("}\n")
    assert not [line for line in source.splitlines() if line != line.rstrip() or len(line) > 130]


def test_each_variant_has_its_own_calls_and_units(tmp_path: Path, entry: BundleEntry) -> None:
    found = {name: swift(tmp_path, entry, **more) for name, more in variants(entry.artifacts[0]).items()}
    assert ".cpuAndGPU) async" in found["fp32"]
    assert ".all) async" in found["text"]
    assert "lengths = [32]" in found["one length"]
    assert "mostTokens = 32" in found["one length"]
    assert "embed(_ text: String)" in found["text"]
    assert "embed(_ text: String)" not in found["clip"]
    assert "attention_mask" not in found["clip"]
    assert "Tokenizer" not in found["clip"]
    assert "embed(tokens: [Int32])" in found["clip"]
    assert "verified on Linux, on no Mac" in found["text"]
    assert "verified on a Mac" in found["finished"]
    assert "of length 1" not in found["not of length 1"]
    assert 'let input = "image"' in found["image"]
    assert "side = 224" in found["image"]
    assert "embed(rgb: [UInt8])" in found["image"]
    assert "embed(_ image: CGImage)" in found["image"]
    assert "import Vision" in found["image"]
    assert "import Vision" not in found["text"]


def test_what_a_manifest_may_say_cannot_end_a_string_or_a_comment(tmp_path: Path, entry: BundleEntry) -> None:
    evil = 'x"\n}; import Evil \\(1) ü'
    (artifact,) = entry.artifacts
    source = swift_source(
        tmp_path, replace(entry, version=evil), replace(artifact, outputs=(Tensor(evil, "float32", (1, 384)),))
    )
    assert brackets_close(source)
    assert "import Evil" not in bare(source)
    assert re.findall(r"^import \w+", source, re.MULTILINE) == [
        "import CoreML",
        "import CryptoKit",
        "import Foundation",
    ]
    assert r'"x\u{22}\u{a}}; import Evil \u{5c}(1) \u{fc}"' in source


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"coreml": None, "format": "onnx"}, UsageError),
        ({"role": "reranker"}, UsageError),
        ({"outputs": ()}, UsageError),
        ({"embedding_dimension": None}, UsageError),
        ({"inputs": (Tensor("input_ids", "int64", (1, 128)),)}, UsageError),
        ({"inputs": (Tensor("ids", "int32", (1, 128)),)}, UsageError),
        ({"role": "image_encoder"}, UsageError),
        ({"inputs": _free_inputs(), "coreml": CoremlPackage("coreml/M.mlpackage", {})}, IntegrityError),
    ],
)
def test_other_packages_are_refused(
    tmp_path: Path, entry: BundleEntry, changes: dict[str, object], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        swift(tmp_path, entry, **changes)


def test_strange_names_and_versions_are_refused(tmp_path: Path, entry: BundleEntry) -> None:
    (artifact,) = entry.artifacts
    assert artifact.coreml is not None
    with pytest.raises(UsageError, match="is no name in Swift"):
        swift(tmp_path, entry, coreml=replace(artifact.coreml, package="coreml/a b.mlpackage"))
    with pytest.raises(IntegrityError, match="is no system's version"):
        swift(tmp_path, entry, coreml=replace(artifact.coreml, minimum_os={"macOS": "13, *)\nimport Evil"}))
    pixels = made.image_artifact(artifact)
    for other in (Tensor("image", "uint8", (1, 3, 112, 112)), Tensor("pixel_values", "float32", (1, 3, 224, 224))):
        with pytest.raises(UsageError, match=r"written for an image of uint8 \[1, 3, 224, 224\]"):
            swift_source(tmp_path, entry, replace(pixels, inputs=(other,)))


def test_the_docs_show_what_is_written(tmp_path: Path, entry: BundleEntry) -> None:
    shown = re.search(r"```swift\n(// Written by .*?)```", SHOWN.read_text(encoding="utf-8"), re.DOTALL)
    assert shown, f"{SHOWN} shows no Swift"
    # After a change: PYTHONPATH=src:. python -m tests.unit.swift.show
    assert shown[1] == swift(tmp_path, entry)


@pytest.mark.parametrize("name", ["image.swift", "clip_text.swift"])
def test_the_other_kinds_are_written_as_they_were_last_looked_at(tmp_path: Path, entry: BundleEntry, name: str) -> None:
    # Nothing here runs it: a change of one character is to be looked at. After a change: as above.
    written = (Path(__file__).with_name(name)).read_text(encoding="utf-8")
    assert written == swift_source(tmp_path, entry, made.snapshots(entry.artifacts[0])[name])


@pytest.mark.parametrize("name", ["text", "clip", "image"])
def test_every_declaration_needs_the_systems_that_load_the_package(
    tmp_path: Path, entry: BundleEntry, name: str
) -> None:
    source = swift(tmp_path, entry, **variants(entry.artifacts[0])[name])
    declared = re.findall(
        r"^(.*)\n(?:public |private )?(?:actor|enum|struct|class|func|extension) ", source, re.MULTILINE
    )
    assert declared == ["@available(iOS 16.0, macOS 13.0, *)"] * (3 if name == "text" else 2)


def test_each_app_keeps_its_own_compiled_models(tmp_path: Path, entry: BundleEntry) -> None:
    source = swift(tmp_path, entry)
    assert "let app = Bundle.main.bundleIdentifier ?? ProcessInfo.processInfo.processName" in source
    assert re.findall(r'appendingPathComponent\("(.*?)", is', source)[0] == rf"\(app)/CompiledModels/{made.STEM}"


def test_sample_weights_are_told_in_the_text_and_on_the_terminal(
    tmp_path: Path, entry: BundleEntry, capsys: pytest.CaptureFixture[str]
) -> None:
    told = f"// from the manifest of {made.NAME} 1.0.0, SAMPLE WEIGHTS (random). Write it anew"
    words = ["coreml", "swift", made.NAME, "--models-dir", str(tmp_path)]
    assert run(words) == 0
    said = capsys.readouterr()
    assert told in said.out
    assert f"WARNING: {made.NAME}: SAMPLE WEIGHTS" in said.err

    manifest.write(tmp_path, Manifest(1, (replace(entry, weights="pretrained"),)))
    assert run(words) == 0
    said = capsys.readouterr()
    assert f"of {made.NAME} 1.0.0. Write it anew" in said.out
    assert "SAMPLE" not in said.out + said.err


def test_the_command_prints_it(tmp_path: Path, entry: BundleEntry, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["coreml", "swift", made.NAME, "--models-dir", str(tmp_path)]
    assert run(words) == 0
    assert capsys.readouterr().out == swift(tmp_path, entry)
    assert run([*words, "--role", "text_encoder", "--precision", "fp16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["swift"] == swift(tmp_path, entry)
    assert run([*words, "--precision", "int8"]) == 3
    assert run([*words, "--role", "image_encoder"]) == 3


def test_of_several_roles_one_must_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, image = tiny.models_folder(tmp_path).bundles[::-1]
    both = tiny.entry_of(
        tmp_path,
        "both",
        (*text.artifacts, *image.artifacts),
        text.goldens.path,
        ("tokenizers/tiny-text/tokenizer.json",),
    )
    manifest.write(tmp_path, Manifest(1, (both,)))
    assert run(["coreml", "swift", "both", "--models-dir", str(tmp_path)]) == 2
    assert "give --role one of: " in capsys.readouterr().err
    assert run(["coreml", "swift", "both", "--role", "text_encoder", "--models-dir", str(tmp_path)]) == 2
    assert "Swift is written for Core ML packages" in capsys.readouterr().err
