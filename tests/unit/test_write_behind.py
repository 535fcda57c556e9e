"""Files that are written to the disk while they grow: same bytes, and every part handed over once."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelbake import files
from modelbake.files import WriteBehind


def test_each_part_of_a_growing_file_is_handed_over_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(files, "_sync_file_range", lambda: lambda fd, start, count, flags: asked.append((start, count)))
    behind = WriteBehind(0)
    for size in range(1 << 20, (40 << 20) + 1, 1 << 20):
        behind.grown(size)
    assert [start for start, _ in asked] == [0, *(start + count for start, count in asked[:-1])]
    assert sum(count for _, count in asked) == 40 << 20
    # Begun anew, as after a damaged download.
    behind.grown(0)
    behind.grown(8 << 20)
    assert asked[-1] == (0, 8 << 20)


def test_the_kernel_takes_what_it_is_asked(tmp_path: Path) -> None:
    start = files._sync_file_range()
    assert start is not None, "Linux has it, and that is where images are made"
    with (tmp_path / "file").open("wb", buffering=0) as file:
        file.write(bytes(1 << 20))
        assert start(file.fileno(), 0, 1 << 20, files._SYNC_FILE_RANGE_WRITE) == 0


def test_without_it_files_are_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_sync_file_range", lambda: None)
    behind = WriteBehind(0)
    behind.grown(100 << 20)
