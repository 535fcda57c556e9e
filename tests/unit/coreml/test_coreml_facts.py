"""`modelbake inspect` of a .mlpackage, sound and unsound; Core ML's bundles in commands that are for others."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from modelbake import manifest
from modelbake.cli.main import run
from modelbake.manifest import CoremlPackage, Manifest
from tests import coreml_packages
from tests.unit import tiny

MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
WEIGHTS = MODEL.with_name("weights") / "weight.bin"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "tiny.mlpackage"
    coreml_packages.sentence_package(coreml_packages.tiny_bert(1), 16).save(str(path))
    return path


@pytest.fixture
def package(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "tiny.mlpackage")


def test_a_package_tells_its_interface_and_what_it_holds(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(package), "--json"]) == 0
    graph = json.loads(capsys.readouterr().out)["graph"]
    assert [(one["name"], one["dtype"], one["shape"]) for one in graph["inputs"]] == [
        ("input_ids", "int32", [1, 16]),
        ("attention_mask", "int32", [1, 16]),
    ]
    assert [(one["name"], one["dtype"]) for one in graph["outputs"]] == [("embeddings", "float32")]
    assert graph["operators"]["layer_norm"] == 3
    # What coremltools' own reader counts.
    import coremltools as ct

    spec = ct.utils.load_spec(str(package))
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    assert graph["nodes"] == sum(one.type != "const" for one in block.operations)
    bert = coreml_packages.tiny_bert(1)
    learned = sum(parameter.numel() for parameter in bert.parameters())
    assert learned * 0.9 < graph["parameters_by_dtype"]["fp32"] < learned * 1.1
    assert graph["external_data"] == [WEIGHTS.as_posix()]
    assert run(["inspect", str(package)]) == 0
    assert "layer_norm 3" in capsys.readouterr().out


def cut(package: Path) -> None:
    os.truncate(package / MODEL, (package / MODEL).stat().st_size // 2)


def cut_weights(package: Path) -> None:
    os.truncate(package / WEIGHTS, (package / WEIGHTS).stat().st_size // 2)


def without_weights(package: Path) -> None:
    (package / WEIGHTS).unlink()


def without_manifest(package: Path) -> None:
    (package / "Manifest.json").unlink()


def neural_network(package: Path) -> None:
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model()
    model.specificationVersion = 4
    model.neuralNetwork.SetInParent()
    (package / MODEL).write_bytes(model.SerializeToString())


def outside(package: Path) -> None:
    path = package / "Manifest.json"
    path.write_text(path.read_text().replace("com.apple.CoreML/model.mlmodel", "../../../etc/passwd"))


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (cut, 5, "cut short"),
        (cut_weights, 5, "this file of weights has no entry at"),
        (without_weights, 5, "weight.bin is missing"),
        (without_manifest, 5, "Manifest.json"),
        (neural_network, 5, "holds neural network, where an ML Program is needed"),
        (outside, 8, "outside the package"),
    ],
)
def test_a_bad_package_is_one_message_and_a_code(
    package: Path, capsys: pytest.CaptureFixture[str], damage: object, code: int, words: str
) -> None:
    damage(package)  # type: ignore[operator]
    assert run(["inspect", str(package)]) == code
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def bundle_of(package: Path, models: Path) -> None:
    """A models folder whose one bundle is of that package."""
    models.mkdir()
    entry = tiny.text_bundle(models)
    shutil.copytree(package, models / "coreml" / "tiny.mlpackage")
    files = {path: f"coreml/tiny.mlpackage/{path}" for path in ("Manifest.json", str(MODEL), str(WEIGHTS))}
    refs = {path: tiny.file_ref(models, name) for path, name in files.items()}
    artifact = replace(
        entry.artifacts[0],
        path=refs[str(MODEL)].path,
        sha256=refs[str(MODEL)].sha256,
        size=refs[str(MODEL)].size,
        format="coreml",
        external_data=(refs["Manifest.json"], refs[str(WEIGHTS)]),
        coreml=CoremlPackage("coreml/tiny.mlpackage", {"iOS": "18.0", "macOS": "15.0"}, (16,)),
    )
    listed = tuple(sorted((*entry.files, *refs.values()), key=lambda ref: ref.path))
    bundle = replace(entry, artifacts=(artifact,), files=listed, digest=manifest.bundle_digest(listed))
    manifest.write(models, Manifest(1, (bundle,)))


def test_a_bundle_of_core_ml_is_inspected_reported_and_not_run(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle_of(package, tmp_path / "models")
    monkeypatch.setenv("MODELBAKE_MODELS", str(tmp_path / "models"))
    assert run(["inspect", "tiny-text"]) == 0
    assert "layer_norm 3" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert run(["report", "--to", str(page)]) == 0
    assert "tiny.mlpackage" in page.read_text()
    capsys.readouterr()
    assert run(["embed", "--bundle", "tiny-text", "--text", "x"]) == 2
    assert "is a Core ML package" in capsys.readouterr().err
