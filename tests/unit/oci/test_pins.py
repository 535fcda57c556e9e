"""The lock file of pulls: several pulls at a time each pin theirs, and none takes another's away."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelbake.errors import IntegrityError
from modelbake.oci import pins


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def test_pulls_at_the_same_time_lose_no_pin(tmp_path: Path) -> None:
    path = tmp_path / "pulls.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: pins.add(path, f"host/a:{number}", digest(number)), range(40)))
    assert pins.read(path).pulls == {f"host/a:{number}": digest(number) for number in range(40)}
    assert sorted(pins.read(path).pulls) == [
        line.split('"')[1] for line in path.read_text().splitlines() if "host/" in line
    ]


def test_a_name_that_another_pull_pinned_otherwise_keeps_its_pin(tmp_path: Path) -> None:
    path = tmp_path / "pulls.json"
    pins.add(path, "host/a:1", digest(1))
    pins.add(path, "host/a:1", digest(1))
    with pytest.raises(IntegrityError, match="the tag was moved"):
        pins.add(path, "host/a:1", digest(2))
    assert pins.read(path).pulls == {"host/a:1": digest(1)}
