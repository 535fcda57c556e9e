"""modelbake sign, verify --key and bom, as commands: what they print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelbake.cli.main import run
from modelbake.oci import bom
from modelbake.oci.store import Store
from tests.unit import tiny
from tests.unit.oci.trust import PASSWORD, store_with


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a store that has `a:1` and `b:1`, and a pair of keys."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELBAKE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COSIGN_PASSWORD", PASSWORD)
    store_with(tmp_path / "store", "a:1", "b:1")
    assert run(["sign", "--generate-key", "release", "--quiet"]) == 0
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = run([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_what_was_signed_verifies_and_what_was_not_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, [signed] = answer(capsys, "sign", "store:a:1", "--key", "release.key", "-a", "stage=tested")
    assert code == 0
    code, [verified] = answer(capsys, "verify", "--key", "release.pub", "store:a:1")
    assert code == 0
    assert verified["digest"] == signed["digest"]
    [signature] = verified["signatures"]
    assert signature["fingerprint"] == signed["key"]
    assert (signature["identity"], signature["annotations"]) == ("a", {"stage": "tested"})
    code, error = answer(capsys, "verify", "--key", "release.pub", "store:a:1", "store:b:1")
    assert code == 8
    assert "not signed" in error["error"]


def test_several_are_signed_at_once_and_several_keys_must_all_have_signed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sign", "--generate-key", "second"]) == 0
    assert run(["sign", "store:a:1", "store:b:1", "--key", "release.key"]) == 0
    assert run(["verify", "--key", "release.pub", "store:a:1", "store:b:1"]) == 0
    assert run(["verify", "--key", "release.pub", "--key", "second.pub", "store:a:1"]) == 8


def test_a_policy_is_verified_by_its_rules(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "p.toml").write_text('schema_version = 1\n[[rules]]\npattern = "store"\nkeys = ["release.pub"]\n')
    assert run(["verify", "--policy", "p.toml", "store:a:1"]) == 8
    assert run(["sign", "store:a:1", "--key", "release.key"]) == 0
    assert run(["verify", "--policy", "p.toml", "store:a:1"]) == 0
    assert "release.pub" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["copy", "store:a:1", "store:c:1"], ["graft", "store:a:1", "store:b:1", "-t", "store:c:1"]]
)
def test_the_project_s_policy_holds_for_all_that_takes_images(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    (folder / "modelbake.policy.toml").write_text(
        'schema_version = 1\n[[rules]]\npattern = "store"\nkeys = ["release.pub"]\n'
    )
    code, error = answer(capsys, *words)
    assert code == 8
    assert "not signed" in error["error"]
    assert "c:1" not in Store(folder / "store").names()
    assert run(["sign", "store:a:1", "store:b:1", "--key", "release.key"]) == 0
    # Small documents are no images, so a graft goes on to say that.
    assert run(words) == (0 if words[0] == "copy" else 5)


def test_what_cannot_be_found_signs_nothing(folder: Path) -> None:
    before = (folder / "store" / "index.json").read_bytes()
    assert run(["sign", "store:a:1", "store:none", "--key", "release.key"]) == 3
    assert run(["sign", "store:a:1", "--key", "none.key"]) == 4
    assert run(["sign", "store:a:1", "--key", "release.pub"]) == 2
    assert run(["verify", "--key", "release.key", "store:a:1"]) == 2
    assert (folder / "store" / "index.json").read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ["sign"],
        ["sign", "store:a:1"],
        ["sign", "--key", "release.key"],
        ["sign", "store:a:1", "--generate-key", "x"],
        ["sign", "store:a:1", "--key", "release.key", "-a", "stage"],
        ["sign", "store:a:1", "--key", "release.key", "-a", "=x"],
        ["sign", "store:a:1", "--key", "release.key", "-a", "x=1", "-a", "x=2"],
        ["verify", "--key", "release.pub"],
        ["verify", "--key", "release.pub", "--policy", "p.toml", "store:a:1"],
        ["verify", "--key", "release.pub", "--image", "x", "store:a:1"],
        ["verify", "--key", "release.pub", "--models-dir", "models", "store:a:1"],
        ["verify", "--plain-http"],
    ],
)
def test_words_that_do_not_fit_together_are_usage(folder: Path, words: list[str]) -> None:
    assert run(words) == 2


def test_a_wrong_password_is_refused_and_none_at_all_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "marked-secret")
    assert run(["sign", "store:a:1", "--key", "release.key"]) == 8
    assert "marked-secret" not in "".join(capsys.readouterr())
    monkeypatch.delenv("COSIGN_PASSWORD")
    assert run(["sign", "store:a:1", "--key", "release.key"]) == 2
    assert "no terminal" in capsys.readouterr().err


def test_on_a_terminal_the_password_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COSIGN_PASSWORD")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    asked: list[dict[str, Any]] = []

    def prompt(text: str, **how: Any) -> str:
        asked.append(how)
        return PASSWORD

    monkeypatch.setattr("click.prompt", prompt)
    assert run(["sign", "store:a:1", "--key", "release.key"]) == 0
    assert run(["sign", "--generate-key", "new"]) == 0
    assert [how["confirmation_prompt"] for how in asked] == [False, True]
    assert all(how["hide_input"] and how["err"] for how in asked)


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("minilm:1", "minilm"),
        ("team/minilm:1", "team/minilm"),
        ("r.example/team/minilm:1", "r.example/team/minilm"),
        ("localhost:5000/minilm:1", "localhost:5000/minilm"),
        ("docker.io/team/minilm:1", "index.docker.io/team/minilm"),
    ],
)
def test_a_signature_in_the_store_names_the_repository_of_the_name(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, identity: str
) -> None:
    store_with(folder / "store", name)
    assert run(["sign", f"store:{name}", "--key", "release.key"]) == 0
    _, [found] = answer(capsys, "verify", "--key", "release.pub", f"store:{name}")
    assert found["signatures"][0]["identity"] == identity


def test_a_bill_of_materials_is_printed_as_it_is_attached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = tiny.models_folder(tmp_path).bundle("tiny-text")
    assert run(["bom", entry.name, "--models-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.encode() == b"".join(bom.blob(entry).chunks())
    _, found = answer(capsys, "bom", entry.name, "--models-dir", str(tmp_path))
    assert found == bom.bom(entry)
    assert run(["bom", "none", "--models-dir", str(tmp_path)]) == 3
