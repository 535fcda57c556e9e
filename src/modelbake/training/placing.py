"""Putting several files into one folder together: all of them, or none."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modelbake.errors import MachineError
from modelbake.files import disk_errors


@contextmanager
def all_or_none(targets: Sequence[Path]) -> Iterator[Path]:
    """A folder for files of the targets' names; where the block ends well they take the targets' places, in their order.

    The targets stand in one folder. It is tried at the beginning, so that hours of work do not end at a folder that cannot
    be written, and belongs to one process at a time. Where anything fails, the files that stood there before stay. A process
    that is killed leaves a hidden `.partial` folder, which the next one clears. MachineError: not writable, disk full, or
    another process is at it.
    """
    folder = targets[0].parent
    staging = folder / f".{targets[0].stem}.partial"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for target in targets:
            if target.is_dir():
                raise MachineError(
                    f"{target} is a folder, so no file of that name can be written. Choose another name."
                )
        lock = _locked(staging)
        try:
            for left in staging.iterdir():
                left.unlink()
            # A folder that takes no bytes is told at once and not at the end.
            (staging / "probe").write_bytes(b"\0")
            (staging / "probe").unlink()
            yield staging
            _place(staging, targets)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            os.close(lock)


def _locked(staging: Path) -> int:
    """The descriptor that holds the lock on the folder, made where there is none."""
    while True:
        staging.mkdir(exist_ok=True)
        try:
            descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            # Whoever had it has just ended.
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if staging.exists() and os.path.samestat(os.fstat(descriptor), staging.stat()):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise MachineError(
                f"{staging}: another process is writing there. Wait for it to end, or choose another name."
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _place(staging: Path, targets: Sequence[Path]) -> None:
    for target in targets:
        with (staging / target.name).open("rb") as file:
            os.fsync(file.fileno())
    before = {target: staging / f"{target.name}.before" for target in targets if target.exists()}
    for target, kept in before.items():
        _keep(target, kept)
    moved: list[Path] = []
    try:
        for target in targets:
            moved.append(target)
            os.replace(staging / target.name, target)
    except BaseException:
        for target in moved:
            if target in before:
                os.replace(before[target], target)
            elif not (staging / target.name).exists():
                target.unlink(missing_ok=True)
        raise


def _keep(target: Path, kept: Path) -> None:
    try:
        os.link(target, kept)
    except OSError:
        shutil.copyfile(target, kept)
