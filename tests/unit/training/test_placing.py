"""Several files put into place together: all or none, whatever happens in between."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modelbake.errors import MachineError
from modelbake.training.placing import all_or_none

NAMES = ("m.onnx", "m.svg", "m.pth")


def targets(folder: Path) -> list[Path]:
    return [folder / name for name in NAMES]


def fill(staging: Path, content: bytes) -> None:
    for name in NAMES:
        (staging / name).write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_files_appear_at_the_end_and_nothing_else_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with all_or_none(targets(folder)) as staging:
        fill(staging, b"one")
        (staging / "goldens.npz").write_bytes(b"not asked for")
        assert not any(target.exists() for target in targets(folder))
    assert contents(folder) == dict.fromkeys(NAMES, b"one")
    with all_or_none(targets(folder)) as staging:
        fill(staging, b"two")
    assert contents(folder) == dict.fromkeys(NAMES, b"two")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, ValueError])
def test_what_stops_before_the_end_changes_nothing(tmp_path: Path, stop: type[BaseException]) -> None:
    (tmp_path / "m.pth").write_bytes(b"old")

    def stopped() -> None:
        with all_or_none(targets(tmp_path)) as staging:
            fill(staging, b"new")
            raise stop

    with pytest.raises(stop):
        stopped()
    assert contents(tmp_path) == {"m.pth": b"old"}


@pytest.mark.parametrize("nth", range(1, 4))
@pytest.mark.parametrize("before", [(), ("m.pth",), NAMES])
def test_a_failure_between_two_files_puts_back_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int, before: tuple[str, ...]
) -> None:
    for name in before:
        (tmp_path / name).write_bytes(b"old")
    calls = 0
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(MachineError), all_or_none(targets(tmp_path)) as staging:
        fill(staging, b"new")
    assert contents(tmp_path) == dict.fromkeys(before, b"old")


def test_a_full_disk_is_the_machine_s_fault_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"is full\. Make room") as caught, all_or_none(targets(tmp_path)):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.exit_code == 7
    assert contents(tmp_path) == {}


def test_a_folder_that_cannot_be_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MachineError, match="cannot be written"), all_or_none(targets(tmp_path / "file")):
        pytest.fail("the work began")
    (tmp_path / "m.svg").mkdir()
    with pytest.raises(MachineError, match=r"m\.svg is a folder"), all_or_none(targets(tmp_path)):
        pytest.fail("the work began")


def test_two_at_once_are_not_possible_and_one_after_the_other_are(tmp_path: Path) -> None:
    with all_or_none(targets(tmp_path)) as staging:
        fill(staging, b"first")
        with pytest.raises(MachineError, match="another process is writing"), all_or_none(targets(tmp_path)):
            pytest.fail("the work began")
    assert contents(tmp_path) == dict.fromkeys(NAMES, b"first")


def test_what_a_killed_process_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from modelbake.training.placing import all_or_none\n"
        "with all_or_none([Path(sys.argv[1]) / name for name in sys.argv[2:]]) as staging:\n"
        "    (staging / 'm.pth').write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), *NAMES], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(contents(tmp_path)) == [".m.partial/m.pth"]
    with all_or_none(targets(tmp_path)) as staging:
        assert list(staging.iterdir()) == []
        fill(staging, b"whole")
    assert contents(tmp_path) == dict.fromkeys(NAMES, b"whole")
