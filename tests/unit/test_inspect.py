"""`modelbake inspect`: bundles as defined and as built, files, whole folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from modelbake import manifest
from modelbake.cli.main import run
from modelbake.files import sha256_of
from modelbake.manifest import FallbackRecord, Manifest, PassedOver
from tests.unit import tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    tiny.models_folder(folder)
    monkeypatch.setenv("MODELBAKE_MODELS", str(folder))
    monkeypatch.setenv("MODELBAKE_ROOT", str(ROOT))
    return folder


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert run(["inspect", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_built_bundle_shows_its_entry_and_its_graphs(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "tiny-text")
    assert (found["name"], found["definition"]) == ("tiny-text", None)
    built = found["built"]
    entry = manifest.read(models).bundle("tiny-text")
    assert built["digest"] == entry.digest
    assert built["size"] == sum(ref.size for ref in entry.files)
    assert built["missing"] == []
    (artifact,) = built["artifacts"]
    assert artifact["graph"]["operators"]["Gather"] == 1
    assert artifact["graph"]["opsets"] == {"": 17}
    assert artifact["graph"]["parameters"] == 7 * 4 + 2
    assert artifact["parity"]["gate"] == tiny.GATE
    assert run(["inspect", "tiny-text"]) == 0
    said = capsys.readouterr().out
    for words in (
        entry.digest,
        "RANDOM",
        "input_ids: int64 [batch, sequence]",
        "opset     onnx 17",
        "max_tokens 5",
        "onnx 1",
    ):
        assert words in said


def test_a_bundle_that_is_only_defined_shows_its_pins(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "minilm-l6-v2")
    assert found["built"] is None
    assert len(found["definition"]["digest"]) == 64
    assert run(["inspect", "minilm-l6-v2"]) == 0
    said = capsys.readouterr().out
    assert "revision c9745ed1d9f207416be6d2e6f8de32d1f16199bf" in said
    assert "sha256 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db" in said
    assert "`modelbake build minilm-l6-v2` makes it" in said


def test_a_file_is_told_by_its_bytes_and_known_by_its_manifest(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = models / "onnx" / "tiny-image.onnx"
    found = as_json(capsys, str(path))
    assert (found["sha256"], found["bundle"]) == (sha256_of(path), "tiny-image")
    assert found["artifact"]["role"] == "image_encoder"
    assert found["graph"]["operators"] == {"ReduceMean": 1}
    # Other bytes in its place are no bundle's.
    tiny.image_graph(path)
    tiny.text_graph(path, tiny.table())
    assert as_json(capsys, str(path))["bundle"] is None
    assert run(["inspect", str(path)]) == 0
    assert "output    sentence_embedding: float32 [batch, 4]" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["", "model_manifest.json"])
def test_a_folder_or_its_manifest_shows_all_bundles(
    models: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    assert [entry["name"] for entry in as_json(capsys, str(models / what))] == ["tiny-image", "tiny-text"]
    assert run(["inspect", str(models / what)]) == 0
    assert "tiny-image 1.0.0, built: sample weights" in capsys.readouterr().out


def test_a_file_that_is_gone_is_shown_as_missing(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models / "onnx" / "tiny-text.onnx").unlink()
    built = as_json(capsys, "tiny-text")["built"]
    assert built["missing"] == ["onnx/tiny-text.onnx"]
    assert built["artifacts"][0]["graph"] is None
    assert run(["inspect", "tiny-text"]) == 0
    assert capsys.readouterr().out.count("MISSING") == 2


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("nothing", 3, "Known bundles: arctic-embed-xs-coreml"),
        ("./nothing.onnx", 2, "does not exist"),
        ("models/goldens/x.npz", 2, "does not exist"),
        ("/nowhere/model_manifest.json", 7, "does not exist"),
    ],
)
def test_what_is_not_there_is_one_message(
    models: Path, capsys: pytest.CaptureFixture[str], what: str, code: int, message: str
) -> None:
    assert run(["inspect", what]) == code
    assert message in capsys.readouterr().err


def test_a_file_of_another_kind_and_a_damaged_graph_are_told(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(models / "goldens" / "tiny-text.npz")]) == 2
    assert "is neither an ONNX file" in capsys.readouterr().err
    (models / "onnx" / "tiny-text.onnx").write_bytes(b"\xff\xff")
    assert run(["inspect", "tiny-text"]) == 5
    assert "is no ONNX graph" in capsys.readouterr().err


def test_one_bundle_of_real_weights_is_not_called_random(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest.write(models, Manifest(1, (tiny.text_bundle(models, weights="pretrained"),)))
    assert run(["inspect", "tiny-text"]) == 0
    assert "RANDOM" not in capsys.readouterr().out


def test_variants_and_fallbacks_of_a_definition_are_shown(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "minilm-l6-v2"]) == 0
    assert "  variant     precision int8, method blockwise" in capsys.readouterr().out
    assert run(["inspect", "ms-marco-reranker"]) == 0
    assert "  fallback    ms-marco-TinyBERT-L2-v2 (NOT PINNED)" in capsys.readouterr().out


def test_a_bundle_that_became_a_fallback_says_so(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = FallbackRecord("small", (PassedOver("large", "unreachable", "org/large"),))
    manifest.write(models, Manifest(1, (replace(tiny.text_bundle(models), fallback=record),)))
    assert run(["inspect", "tiny-text"]) == 0
    expected = "  FALLBACK    model small, instead_of [model large, reason unreachable, repository org/large]"
    assert expected in capsys.readouterr().out
