"""The store under kill -9, a full disk and many processes at once."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from modelbake.errors import MachineError
from modelbake.oci.store import Store
from tests.faults.injection import Fault, Kind
from tests.faults.mounts import can_mount, small_disk
from tests.unit.oci.conftest import Image, image, left_over, on_disk

FULL = 7


def start(work: Callable[[], object], fault: Fault | None = None) -> int:
    """Run it in a process of its own, which ends with 0, with FULL for a full disk, or with 1 and a traceback."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if fault is not None:
            fault.trace = os.open(os.devnull, os.O_WRONLY)
            fault.install()
        work()
        code = 0
    except MachineError as error:
        code = FULL if "is full" in str(error) else 1
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """The exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("kind", ["kill", "tear"])
def test_killed_at_any_change_of_the_disk_the_store_is_whole_and_the_next_try_succeeds(
    tmp_path: Path, first: Image, second: Image, kind: Kind
) -> None:
    """`tear`: the file that was being written is cut in half as well."""
    killed = 0
    for at in count(1):
        store = Store(tmp_path / f"store-{at}")
        if at > 1 and at % 2:
            # From time to time into a store that has something.
            first.put(store, "name")
        before = store.names()
        fault = Fault(kind, at=at, below=str(store.folder))
        code = ended(start(partial(second.put, store, "name", "other"), fault))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1

        assert set(before) <= set(store.names()) <= {"name", "other"}
        whole = {one.digest for one in store.verify()}
        assert whole in (set(), first.digests, second.digests)
        if before:
            assert store.resolve("name") in (first.root, second.root)
        second.put(store, "name", "other")
        assert {one.digest for one in store.verify()} == second.digests
        store.gc()
        assert on_disk(store) == second.digests
        assert list((store.folder / "ingest").iterdir()) == []
    assert killed > 10


@pytest.mark.parametrize("action", ["gc", "remove"])
def test_killed_while_it_takes_away_what_is_named_stays_whole(
    tmp_path: Path, first: Image, second: Image, action: str
) -> None:
    killed = 0
    for at in count(1):
        store = Store(tmp_path / f"store-{at}")
        first.put(store, "gone")
        second.put(store, "kept")
        if action == "gc":
            store.remove(["gone"])
        work = store.gc if action == "gc" else partial(store.remove, ["gone"])
        code = ended(start(work, Fault("kill", at=at, below=str(store.folder))))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1

        assert "kept" in store.names()
        assert second.digests <= {one.digest for one in store.verify()}
        if "gone" in store.names():
            store.remove(["gone"])
        store.gc()
        assert on_disk(store) == second.digests
    assert killed >= (3 if action == "gc" else 2)


def test_what_died_writers_of_the_index_left_is_swept(tmp_path: Path, first: Image) -> None:
    store = Store(tmp_path / "store")
    first.put(store, "kept")
    (store.folder / ".index.json-abc").write_bytes(b"half")
    (store.folder / "notes.txt").write_text("somebody's")
    assert store.gc().size == 4
    assert sorted(path.name for path in store.folder.iterdir() if path.is_file()) == [
        "index.json",
        "notes.txt",
        "oci-layout",
    ]


def test_who_waits_for_another_is_told(tmp_path: Path, first: Image, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "store")
    first.put(store, "kept")
    with store.adding():
        sweep = threading.Thread(target=store.gc)
        sweep.start()
        for _ in range(500):
            if said := capsys.readouterr().err:
                break
            time.sleep(0.01)
        assert "is being added to; waiting" in said
        assert sweep.is_alive()
    sweep.join()


def test_on_a_full_disk_nothing_is_left_half_and_with_room_it_succeeds(
    tmp_path: Path, first: Image, second: Image
) -> None:
    """ENOSPC from any change on."""
    failed = 0
    for at in count(1):
        store = Store(tmp_path / f"store-{at}")
        first.put(store, "first")
        fault = Fault("full", at=at, below=str(store.folder))
        code = ended(start(partial(second.put, store, "second"), fault))
        if code == 0:
            break
        assert code == FULL
        failed += 1

        assert store.names() == ["first"]
        assert store.verify()
        second.put(store, "second")
        assert {one.digest for one in store.verify()} == first.digests | second.digests
    assert failed > 5


@pytest.mark.parametrize("size", [size << 12 for size in (1, 2, 4, 16, 64)] if can_mount() else [])
def test_a_disk_too_small_for_a_blob_keeps_none_of_it(tmp_path: Path, first: Image, size: int) -> None:
    """A file system that is really small: the room that a failed blob took is free again."""
    large = image(tmp_path / "files", bytes(range(256)) * 1024)
    with small_disk(tmp_path / "disk", size) as disk:
        store = Store(tmp_path / "disk" / "store")
        with pytest.raises(MachineError, match=r"The disk that holds .* is full\. Make room") as caught:
            large.put(store, "large")
        assert caught.value.exit_code == 7
        assert not list(store.folder.glob("ingest/*"))
        disk.resize(1 << 21)
        large.put(store, "large")
        first.put(store, "first")
        assert {one.digest for one in store.verify()} == large.digests | first.digests


def test_a_write_that_fails_in_the_middle_of_a_blob_leaves_nothing(
    store: Store, first: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is full, where no small one can be mounted."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with store.adding():
        # The layout is there by now.
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(MachineError, match="is full"):
            store.add(first.blobs[0])

    assert (on_disk(store), left_over(store)) == (set(), [])


def test_the_index_is_on_the_disk_before_it_takes_the_old_one_s_place(
    store: Store, first: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    replaced: list[bool] = []
    fsync, replace = os.fsync, os.replace

    def noted(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def told(source: str | Path, target: str | Path) -> None:
        replaced.append(os.stat(source).st_ino in synced)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", told)
    first.put(store, "a")
    # Three blobs, the layout's two documents, and the index with the name.
    assert replaced == [True] * 6


def test_processes_that_add_the_same_blobs_at_once_all_succeed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    images = [image(tmp_path / "files", bytes([number]) * 200_000) for number in range(3)]

    def work(number: int) -> None:
        for one in images:
            one.put(store, f"name-{number}", f"own-{number}-{one.root.hex[:4]}")

    assert [ended(pid) for pid in [start(partial(work, number)) for number in range(6)]] == [0] * 6

    names = {f"name-{n}" for n in range(6)} | {f"own-{n}-{one.root.hex[:4]}" for n in range(6) for one in images}
    assert set(store.names()) == names
    digests = set().union(*(one.digests for one in images))
    assert {one.digest for one in store.verify()} == on_disk(store) == digests
    assert list((store.folder / "ingest").iterdir()) == []


def test_gc_beside_processes_that_add_takes_nothing_that_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    images = [image(tmp_path / "files", bytes([number]) * 50_000) for number in range(4)]
    rounds, over = 8, tmp_path / "over"

    def add(number: int) -> None:
        for turn in range(rounds):
            images[number].put(store, f"name-{number}")
            assert store.resolve(f"name-{number}") == images[number].root
            store.verify()
            if turn < rounds - 1:
                store.remove([f"name-{number}"])

    def sweep() -> None:
        while not over.exists():
            store.gc()

    adders = [start(partial(add, number)) for number in range(len(images))]
    sweeper = start(sweep)
    codes = [ended(pid) for pid in adders]
    over.touch()

    assert codes == [0] * len(images)
    assert ended(sweeper) == 0
    store.gc()
    assert {one.digest for one in store.verify()} == on_disk(store) == set().union(*(one.digests for one in images))
