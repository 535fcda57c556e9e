"""modelbake store and pack: names with and without `store:`, and what goes with a name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelbake.cli.main import run
from modelbake.oci.sign import signature_name
from modelbake.oci.store import Store
from tests.unit.oci import made
from tests.unit.oci.trust import PASSWORD


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in which `m:1` and `m:1-modelpack` lead to the same files, `other:1` to others; the first is signed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELBAKE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COSIGN_PASSWORD", PASSWORD)
    store = Store(tmp_path / "store")
    for name in ("m", "other"):
        _, root = made.bundle(store, name, version="1")
        with store.adding():
            store.tag(f"{name}:1", root)
    with store.adding():
        store.tag("m:1-modelpack", store.resolve("m:1"))
    assert run(["sign", "--generate-key", "release", "--quiet"]) == 0
    assert run(["sign", "store:m:1", "--key", "release.key", "--quiet"]) == 0
    return store


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = run([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["m:1", "store:m:1"])
def test_what_is_removed_takes_along_what_belongs_to_it(
    store: Store, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    signatures = signature_name(store.resolve("m:1").digest)
    code, said = answer(capsys, "store", "rm", name)
    assert (code, said["removed"]) == (0, sorted(["m:1", "m:1-modelpack", signatures]))
    assert store.names() == ["other:1"]
    # Its layer, models manifest, config and document, and those of its signature.
    assert store.gc().blobs >= 7


def test_what_another_name_leads_to_stays_signed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["store", "tag", "store:m:1", "store:kept"]) == 0
    code, said = answer(capsys, "store", "rm", "m:1")
    assert (code, said["removed"]) == (0, ["m:1", "m:1-modelpack"])
    assert run(["verify", "store:kept", "--key", "release.pub"]) == 0


def test_a_digest_removes_all_its_names(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = answer(capsys, "store", "rm", store.resolve("m:1").digest)
    assert (code, store.names()) == (0, ["other:1"])


def test_nothing_is_removed_where_one_name_leads_nowhere(store: Store) -> None:
    before = store.names()
    assert run(["store", "rm", "m:1", "gone"]) == 3
    assert store.names() == before


@pytest.mark.parametrize("name", ["a name", "store:", "sha256:" + "0" * 64])
def test_names_that_could_not_be_asked_for_are_not_given(store: Store, name: str) -> None:
    before = store.names()
    assert run(["store", "tag", "m:1", name]) == 2
    assert store.names() == before
