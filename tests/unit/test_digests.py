"""Remembered digests: right whatever happens to the files, and nothing is hashed twice without need."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelbake import digests
from modelbake.digests import Digests
from modelbake.files import file_refs, sha256_of


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that was really hashed; time stamps count as settled at once."""
    calls: list[Path] = []

    def counted(path: Path) -> str:
        calls.append(path)
        return sha256_of(path)

    monkeypatch.setattr(digests, "sha256_of", counted)
    monkeypatch.setattr(digests, "SETTLED", -1)
    return calls


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"first")
    return path


def test_a_file_is_hashed_once_by_all_processes_together(file: Path, tmp_path: Path, hashed: list[Path]) -> None:
    assert Digests(tmp_path).sha256(file) == Digests(tmp_path).sha256(file) == sha256_of(file)
    assert hashed == [file]


def test_bytes_written_over_with_their_old_size_and_time_stamp_are_hashed_again(
    file: Path, tmp_path: Path, hashed: list[Path]
) -> None:
    store = Digests(tmp_path)
    before = store.sha256(file)
    stat = file.stat()
    time.sleep(0.02)
    file.write_bytes(b"other")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert store.sha256(file) == sha256_of(file) != before


def test_another_file_of_the_name_is_hashed_again(file: Path, tmp_path: Path, hashed: list[Path]) -> None:
    store = Digests(tmp_path)
    store.sha256(file)
    (tmp_path / "new").write_bytes(b"other")
    os.replace(tmp_path / "new", file)
    assert store.sha256(file) == sha256_of(file)
    assert len(hashed) == 2


def test_a_file_that_was_just_written_is_not_remembered(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Digests(tmp_path)
    store.sha256(file)
    monkeypatch.setattr(digests, "sha256_of", lambda path: "hashed again")
    assert store.sha256(file) == "hashed again"


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Digests(tmp_path).sha256(tmp_path / "absent")


@pytest.mark.parametrize("damage", [b"no database", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_store_is_as_good_as_none(file: Path, tmp_path: Path, hashed: list[Path], damage: bytes) -> None:
    (tmp_path / "digests.sqlite").write_bytes(damage)
    store = Digests(tmp_path)
    assert store.sha256(file) == store.sha256(file) == sha256_of(file)


def test_a_store_that_cannot_be_made_is_as_good_as_none(file: Path, tmp_path: Path, hashed: list[Path]) -> None:
    (tmp_path / "taken").write_bytes(b"")
    assert Digests(tmp_path / "taken" / "below").sha256(file) == sha256_of(file)


def test_several_at_once_give_the_same(tmp_path: Path, hashed: list[Path]) -> None:
    root = tmp_path / "models"
    for index in range(40):
        (root / f"{index % 4}").mkdir(parents=True, exist_ok=True)
        (root / f"{index % 4}" / f"{index}").write_bytes(b"x" * index)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: Digests(tmp_path).refs(root), range(16)))
    assert set(found) == {file_refs(root)}
