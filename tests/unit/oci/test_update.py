"""Documents that several writers add to: nobody's part is lost, and nobody waits for ever."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from modelbake.errors import SourceUnreachableError
from modelbake.oci import update
from modelbake.oci.blob import Blob, of_bytes
from modelbake.oci.model import IMAGE_INDEX, Descriptor, ImageIndex, decode, descriptor_of, encode
from modelbake.oci.place import Place
from modelbake.oci.store import Store
from modelbake.oci.update import Change
from tests.unit.oci.trust import store_with

NAME = "sha256-list"


class Registry:
    """A store without locks between writers, as a registry is; `between` runs before a name is set, `behind` once it is."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.between: Callable[[], None] = lambda: None
        self.behind: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> object:
        if name == "updating":
            raise AttributeError(name)
        return getattr(self._store, name)

    def tag(self, name: str, descriptor: Descriptor) -> None:
        self.between()
        self._store.tag(name, descriptor)
        self.behind()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "_wait", lambda seconds: None)


def adding(place: Place, one: Descriptor) -> Change:
    """A change that adds the document to the list."""

    def change(before: Descriptor | None) -> Sequence[Blob]:
        there = decode(place.read(before), ImageIndex, "list").manifests if before else ()
        if one in there:
            return ()
        data = encode(ImageIndex(2, (*there, one), IMAGE_INDEX))
        return (of_bytes(data, descriptor_of(data, IMAGE_INDEX)),)

    return change


def listed(place: Place) -> set[str]:
    return {one.digest for one in decode(place.read(place.resolve(NAME)), ImageIndex, "list").manifests}


@pytest.fixture
def documents(tmp_path: Path) -> tuple[Store, list[Descriptor]]:
    return store_with(tmp_path, "a", "b", "c")


def once(action: Callable[[], object]) -> Callable[[], None]:
    waiting = [action]

    def run() -> None:
        if waiting:
            waiting.pop()()

    return run


def test_a_store_lets_no_other_writer_in_between(documents: tuple[Store, list[Descriptor]]) -> None:
    store, [ours, *_] = documents
    add = adding(store, ours)
    asked = []

    def change(before: Descriptor | None) -> Sequence[Blob]:
        with (store.folder / "locks" / "update").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        asked.append(before)
        return add(before)

    update.update(store, NAME, change)
    assert len(asked) == 2


def test_another_s_part_that_came_before_ours_stays(documents: tuple[Store, list[Descriptor]]) -> None:
    store, [ours, other, _] = documents
    registry = Registry(store)
    update.update(store, NAME, adding(store, other))
    update.update(registry, NAME, adding(registry, ours))  # type: ignore[arg-type]
    assert listed(store) == {ours.digest, other.digest}


@pytest.mark.parametrize("when", ["between", "behind"])
def test_what_another_wrote_over_is_written_again_by_whoever_looks_last(
    documents: tuple[Store, list[Descriptor]], when: str
) -> None:
    store, [ours, other, _] = documents
    registry = Registry(store)
    # The other read the list before us and writes it when we are done, or we write over theirs.
    stale = list(adding(store, other)(None))

    def writes() -> None:
        with store.adding():
            store.add(stale[0])
            store.tag(NAME, stale[0].descriptor)

    setattr(registry, when, once(writes))
    update.update(registry, NAME, adding(registry, ours))  # type: ignore[arg-type]
    # Had they come just before us, theirs would be lost until they look again, which they do.
    update.update(registry, NAME, adding(registry, other))  # type: ignore[arg-type]
    assert listed(store) == {ours.digest, other.digest}


def test_a_change_between_reading_and_writing_is_seen(documents: tuple[Store, list[Descriptor]]) -> None:
    store, [ours, other, _] = documents
    registry = Registry(store)
    registry.add = once_then(store, once(lambda: update.update(store, NAME, adding(store, other))))  # type: ignore[attr-defined]
    update.update(registry, NAME, adding(registry, ours))  # type: ignore[arg-type]
    assert listed(store) == {ours.digest, other.digest}


def once_then(store: Store, first: Callable[[], None]) -> Callable[[Blob], None]:
    def add(blob: Blob) -> None:
        first()
        store.add(blob)

    return add


def test_where_others_never_rest_it_gives_up(documents: tuple[Store, list[Descriptor]]) -> None:
    store, [ours, other, _] = documents
    registry = Registry(store)
    stale = adding(store, other)(None)[0]

    def writes() -> None:
        with store.adding():
            store.add(stale)
            store.tag(NAME, stale.descriptor)

    registry.behind = writes
    with pytest.raises(SourceUnreachableError, match="run this again"):
        update.update(registry, NAME, adding(registry, ours))  # type: ignore[arg-type]


def test_a_document_that_holds_it_all_is_not_written(documents: tuple[Store, list[Descriptor]]) -> None:
    store, [ours, *_] = documents
    registry = Registry(store)
    first = update.update(registry, NAME, adding(registry, ours))  # type: ignore[arg-type]

    def never() -> None:
        raise AssertionError("nothing is to be written")

    registry.between = never
    assert update.update(registry, NAME, adding(registry, ours)) == first  # type: ignore[arg-type]
