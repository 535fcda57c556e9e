"""modelbake rerank: its words, its results and its refusals."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from modelbake import manifest
from modelbake.cli.main import run
from modelbake.manifest import Manifest
from modelbake.runtime import reranker
from tests.unit import tiny, tiny_reranker
from tests.unit.test_structure import HEAVY, PROBE, room

DOCUMENTS = ["green", "cat", "blue"]
WORDS = [word for document in DOCUMENTS for word in ("--document", document)]


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder with one reranker and a text encoder, that the environment names."""
    folder = tmp_path / "models"
    folder.mkdir()
    entries = (tiny.text_bundle(folder), tiny_reranker.bundle(folder, weights="pretrained"))
    manifest.write(folder, Manifest(manifest.SCHEMA_VERSION, entries))
    monkeypatch.setenv("MODELBAKE_MODELS", str(folder))
    return folder


def test_documents_come_best_first_with_their_places(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rerank", "--bundle", "tiny-reranker", "--query", "bird", *WORDS, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {
        "bundle": "tiny-reranker",
        "weights": "pretrained",
        "query": "bird",
        "results": [
            {"index": 1, "score": 16.25, "document": "cat"},
            {"index": 2, "score": 8.25, "document": "blue"},
            {"index": 0, "score": -3.75, "document": "green"},
        ],
    }
    assert said.err == ""


def test_the_only_reranker_needs_no_name_and_top_cuts_the_ranking(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rerank", "--query", "bird", *WORDS, "--top", "2"]) == 0
    assert capsys.readouterr().out == "16.25\tcat\n8.25\tblue\n"


def test_the_default_of_several_needs_no_name(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, default = (tiny_reranker.bundle(models, name, weights="pretrained") for name in ("other", "preferred"))
    default = replace(default, kind="cross_encoder", default=True)
    manifest.write(models, Manifest(manifest.SCHEMA_VERSION, (other, default)))
    for words in ([], ["--bundle", "cross_encoder"]):
        assert run(["rerank", *words, "--query", "bird", *WORDS, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["bundle"] == "preferred"


def test_as_many_threads_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []

    class Noting(reranker.Session):
        def __init__(self, path: Path, threads: int | None = None) -> None:
            asked.append(threads)
            super().__init__(path, threads)

    monkeypatch.setattr(reranker, "Session", Noting)
    monkeypatch.setenv("MODELBAKE_THREADS", "2")
    assert run(["rerank", "--query", "bird", "--document", "cat", "--quiet"]) == 0
    assert asked == [2]


@pytest.mark.parametrize(("data", "expected"), [(b"green\r\ncat\n", ["cat", "green"]), (b"", [])])
def test_standard_input_is_a_document_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, data: bytes, expected: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    assert run(["rerank", "--query", "bird", "--stdin", "--json"]) == 0
    assert [result["document"] for result in json.loads(capsys.readouterr().out)["results"]] == expected


def test_standard_input_that_is_no_text_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"cat\n\xff\n"), encoding="utf-8"))
    assert run(["rerank", "--query", "bird", "--stdin"]) == 2
    assert "Standard input is no utf-8 text" in capsys.readouterr().err


def test_sample_weights_are_named_as_such(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest.write(models, Manifest(manifest.SCHEMA_VERSION, (tiny_reranker.bundle(models),)))
    assert run(["rerank", "--query", "bird", "--document", "cat", "--quiet"]) == 0
    assert "tiny-reranker has SAMPLE WEIGHTS (random): its scores mean nothing." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--query", "a"], 2, "one of the two. Try `modelbake rerank --help`."),
        (["--query", "a", "--document", "b", "--stdin"], 2, "one of the two."),
        (["--document", "b"], 2, "'--query'"),
        (["--query", "a", "--document", "b", "--top", "0"], 2, "'--top'"),
        (["--bundle", "tiny-text", "--query", "a", "--document", "b"], 2, "does not rerank; it has: text_encoder"),
        (["--bundle", "other", "--query", "a", "--document", "b"], 3, "It has: tiny-reranker, tiny-text."),
        (
            ["--query", "a", "--document", "b", "--models-dir", "/absent"],
            7,
            "/absent/model_manifest.json does not exist",
        ),
    ],
)
def test_what_cannot_be_done_is_one_message(
    capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    assert run(["rerank", *words]) == code
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


def test_a_missing_graph_is_the_machine_s_and_a_damaged_one_the_files_fault(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = models / "onnx" / "tiny-reranker.onnx"
    graph.write_bytes(b"damaged")
    assert run(["rerank", "--query", "a", "--document", "b"]) == 5
    assert f"error: {graph}: ONNX Runtime cannot load" in capsys.readouterr().err
    graph.unlink()
    assert run(["rerank", "--query", "a", "--document", "b"]) == 7
    assert f"error: {graph} does not exist" in capsys.readouterr().err


def test_reranking_loads_nothing_of_the_build(models: Path) -> None:
    command = [sys.executable, "-c", PROBE, "rerank", "--query", "bird", "--document", "cat", "--quiet"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert not [name for name in loaded if name.partition(".")[0] in {*HEAVY, "huggingface_hub", "httpx2"}]
    rooms = {room(name) for name in loaded if name.startswith("modelbake.")}
    assert rooms.isdisjoint({"export", "sources", "pipeline", "cache", "bake"})
