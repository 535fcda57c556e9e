"""One file into the store: resumed, tried again, checked, never there unless it is right."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BufferedWriter
from pathlib import Path
from typing import Any

import pytest

from modelbake.bundle import UrlSource
from modelbake.errors import IntegrityError, MachineError, ModelbakeError, SourceUnreachableError
from modelbake.output import Output
from modelbake.patience import CancelledDownloadError, TransientError
from modelbake.sources.base import RemoteFile, Stream
from modelbake.sources.hub import Hub as HubClient
from modelbake.sources.transfer import FRUITLESS_TRIES
from modelbake.sources.url import Url
from tests.hub import Hub, Repo
from tests.unit.sources.support import FILE, WEIGHTS, Downloads, Web, sha256

SIZE = len(WEIGHTS)
WHOLE = [f"sha256/{sha256(WEIGHTS)}"]
PARTIAL = [f"partial/{sha256(WEIGHTS)}"]


class Table:
    """A source that answers each open() with the next of `answers`: bytes from an offset, or an error."""

    label = "table"

    def __init__(self, *answers: tuple[int, bytes, Exception | None] | Exception) -> None:
        self.answers, self.asked = list(answers), []  # type: ignore[var-annotated]

    def inventory(self) -> dict[str, RemoteFile]:
        return {}

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Stream]:
        self.asked.append(offset)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        start, data, error = answer

        def chunks() -> Iterator[bytes]:
            yield data
            if error is not None:
                raise error

        yield Stream(start, chunks())


def test_a_file_arrives_under_its_digest_and_nothing_else_is_kept(downloads: Downloads, source: HubClient) -> None:
    blob = downloads.get(source)
    assert (blob.path.read_bytes(), blob.sha256, blob.size) == (WEIGHTS, sha256(WEIGHTS), SIZE)
    assert downloads.kept == WHOLE


def test_an_empty_file_arrives(downloads: Downloads, source: HubClient) -> None:
    assert downloads.get(source, b"", "empty.txt").path.read_bytes() == b""


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("after", [1, 65_536, 200_001, SIZE - 1])
def test_a_cut_connection_is_resumed_where_it_was_cut(
    hub: Hub, downloads: Downloads, source: HubClient, after: int, how: str
) -> None:
    hub.faults.add(FILE, kind="cut", after=after, how=how)
    assert downloads.get(source).path.read_bytes() == WEIGHTS
    first, second = hub.log.select(FILE, endpoint="cdn")
    assert (first.range, first.sent) == (None, after)
    assert (second.range, second.status, second.sent) == (f"bytes={after}-", 206, SIZE - after)


def test_progress_starts_the_count_of_tries_again(
    hub: Hub, downloads: Downloads, source: HubClient, waits: list[float]
) -> None:
    cuts = hub.faults.add(FILE, kind="cut", after=20_000, how="fin", times=3 * FRUITLESS_TRIES)
    assert downloads.get(source).path.read_bytes() == WEIGHTS
    assert cuts.hits == 3 * FRUITLESS_TRIES == len(waits)
    assert max(waits) < 0.7
    assert sum(request.sent for request in hub.log.select(FILE, endpoint="cdn")) == SIZE


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_an_answer_that_may_pass_is_tried_again_after_growing_waits(
    hub: Hub, downloads: Downloads, source: HubClient, waits: list[float], status: int
) -> None:
    hub.faults.add(FILE, kind="status", status=status, times=FRUITLESS_TRIES - 1)
    assert downloads.get(source).path.read_bytes() == WEIGHTS
    for wait, middle in zip(waits, [1.0, 2.0, 4.0, 8.0], strict=True):
        assert 0.75 * middle <= wait <= 1.25 * middle


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        (7, 7.0),
        ("0", 0.0),
        (3600, 60.0),
        (datetime.now(UTC) + timedelta(days=1), 60.0),
        (datetime(2020, 1, 1, tzinfo=UTC), 0.0),
    ],
)
def test_retry_after_is_what_is_waited_but_never_over_a_minute(
    hub: Hub, downloads: Downloads, source: HubClient, waits: list[float], after: object, seconds: float
) -> None:
    hub.faults.add(FILE, kind="status", status=429, retry_after=after)
    assert downloads.get(source).path.read_bytes() == WEIGHTS
    assert waits == [seconds]


@pytest.mark.parametrize("endpoint", ["resolve", "cdn"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"kind": "status", "status": 503}, "HTTP 503"),
        ({"kind": "cut", "how": "fin"}, "RemoteProtocolError"),
        ({"kind": "cut", "how": "rst"}, "ReadError"),
    ],
)
def test_tries_without_progress_end_after_their_number(
    hub: Hub, downloads: Downloads, source: HubClient, fault: dict[str, Any], words: str, endpoint: str
) -> None:
    order = hub.faults.add(FILE, endpoint=endpoint, times=None, **fault)
    with pytest.raises(SourceUnreachableError, match=f"{words}.*gave up after {FRUITLESS_TRIES} tries") as caught:
        downloads.get(source)
    assert (order.hits, caught.value.exit_code) == (FRUITLESS_TRIES, 4)


@pytest.mark.parametrize("status", [401, 403, 404, 410, 451])
def test_an_answer_that_will_not_pass_is_not_tried_again(
    hub: Hub, downloads: Downloads, source: HubClient, waits: list[float], status: int
) -> None:
    hub.faults.add(FILE, kind="status", status=status, times=None)
    with pytest.raises(SourceUnreachableError, match=f"HTTP {status}"):
        downloads.get(source)
    assert waits == []


def test_a_signature_in_the_address_is_not_in_the_message(hub: Hub, downloads: Downloads, source: HubClient) -> None:
    hub.faults.add(FILE, kind="status", status=404, endpoint="cdn")
    with pytest.raises(SourceUnreachableError) as caught:
        downloads.get(source)
    assert "Signature" not in str(caught.value)
    assert FILE in str(caught.value)


def test_an_ignored_range_starts_over(hub: Hub, downloads: Downloads, source: HubClient) -> None:
    hub.faults.add(FILE, kind="cut", after=100_000, how="fin")
    hub.faults.add(FILE, kind="ignore-range")
    assert downloads.get(source).path.read_bytes() == WEIGHTS
    assert [r.sent for r in hub.log.select(FILE, endpoint="cdn")] == [100_000, SIZE]


def test_a_server_without_ranges_that_never_gets_further_is_given_up(downloads: Downloads) -> None:
    cut = TransientError("cut")
    lengths = [50, 10, 40, 20, 50, 30, 10, 20]
    table = Table(*((0, WEIGHTS[:length], cut) for length in lengths))
    with pytest.raises(SourceUnreachableError, match="gave up"):
        downloads.get(table)
    assert len(table.asked) == 1 + FRUITLESS_TRIES


def test_another_range_than_asked_for_is_never_accepted(hub: Hub, downloads: Downloads, source: HubClient) -> None:
    downloads.partial().write_bytes(WEIGHTS[:100_000])
    wrong = hub.faults.add(FILE, kind="wrong-range", start=50_000, times=2)
    assert downloads.get(source).path.read_bytes() == WEIGHTS
    assert wrong.hits == 2
    hub.faults.add(FILE, kind="wrong-range", start=0, times=None)
    os.unlink(downloads.folder / WHOLE[0])
    downloads.partial().write_bytes(WEIGHTS[:100_000])
    with pytest.raises(SourceUnreachableError, match="Content-Range"):
        downloads.get(source)
    assert downloads.partial().read_bytes() == WEIGHTS[:100_000]


def test_a_lying_range_is_found_out_and_healed_from_the_first_byte(
    hub: Hub, downloads: Downloads, source: HubClient
) -> None:
    hub.faults.add(FILE, kind="cut", after=100_000, how="fin")
    lie = hub.faults.add(FILE, kind="lying-range", start=50_000)
    assert downloads.get(source).path.read_bytes() == WEIGHTS
    assert lie.hits == 1


@pytest.mark.parametrize("offset", [0, 65_536, SIZE - 1])
def test_a_flipped_byte_is_refused_and_nothing_is_kept(
    hub: Hub, downloads: Downloads, source: HubClient, offset: int
) -> None:
    hub.faults.add(FILE, kind="flip", offset=offset, times=None)
    with pytest.raises(IntegrityError, match=re.escape(FILE)) as caught:
        downloads.get(source)
    assert (caught.value.exit_code, downloads.kept) == (5, [])
    assert len(hub.log.select(FILE, endpoint="cdn")) == 1


@pytest.mark.parametrize(
    ("fault", "sized", "error"),
    [
        ({"kind": "pad", "count": 1000}, True, IntegrityError),
        ({"kind": "pad", "count": 1000}, False, IntegrityError),
        ({"kind": "truncate", "count": 1000}, True, SourceUnreachableError),
        ({"kind": "truncate", "count": 1000}, False, IntegrityError),
        ({"kind": "replace"}, True, SourceUnreachableError),
        ({"kind": "replace"}, False, IntegrityError),
    ],
)
def test_a_body_of_another_length_is_never_accepted_and_does_not_spoil_the_next_run(
    hub: Hub, downloads: Downloads, source: HubClient, fault: dict[str, Any], sized: bool, error: type[ModelbakeError]
) -> None:
    hub.faults.add(FILE, endpoint="cdn", times=None, **fault)
    with pytest.raises(error, match=re.escape(FILE)):
        downloads.get(source, sized=sized)
    assert WHOLE[0] not in downloads.kept
    hub.faults.clear()
    assert downloads.get(source, sized=sized).path.read_bytes() == WEIGHTS


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("kind", ["short", "long"])
def test_a_body_that_contradicts_its_content_length_does_no_harm(
    hub: Hub, downloads: Downloads, source: HubClient, kind: Any, sized: bool
) -> None:
    fault = hub.faults.add(FILE, endpoint="cdn", kind=kind, count=1000)
    assert downloads.get(source, sized=sized).path.read_bytes() == WEIGHTS
    assert (fault.hits, downloads.kept) == (1, WHOLE)


@pytest.mark.parametrize("sized", [True, False])
def test_a_file_shorter_than_pinned_is_refused(hub: Hub, source: HubClient, downloads: Downloads, sized: bool) -> None:
    longer = WEIGHTS + b"more"
    with pytest.raises(IntegrityError, match=re.escape(FILE)):
        downloads.get(source, longer, sized=sized)
    assert downloads.kept == []
    assert len(hub.log.select(FILE, endpoint="cdn")) <= 4


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize(
    "left",
    [WEIGHTS, WEIGHTS[:-1], WEIGHTS[:1], b"\0" * 1000, b"\0" * SIZE, WEIGHTS + b"\0", b""],
    ids=["whole", "all but one", "one", "corrupt", "corrupt whole", "too long", "empty"],
)
def test_what_an_earlier_run_left_is_used_or_healed(
    hub: Hub, downloads: Downloads, source: HubClient, left: bytes, sized: bool
) -> None:
    downloads.partial().write_bytes(left)
    assert downloads.get(source, sized=sized).path.read_bytes() == WEIGHTS
    assert downloads.kept == WHOLE
    sent = sum(r.sent for r in hub.log.select(FILE, endpoint="cdn"))
    assert sent == SIZE - len(left) if WEIGHTS.startswith(left) else sent <= 2 * SIZE


def test_a_damaged_blob_is_brought_again(hub: Hub, downloads: Downloads, source: HubClient) -> None:
    blob = downloads.get(source)
    blob.path.write_bytes(b"\0" * SIZE)
    assert downloads.store.find(blob.sha256) is None
    assert downloads.get(source).path.read_bytes() == WEIGHTS


def test_a_blob_that_is_here_is_not_asked_for(hub: Hub, downloads: Downloads, source: HubClient) -> None:
    downloads.get(source)
    hub.log.clear()
    assert downloads.get(source).path.read_bytes() == WEIGHTS
    assert hub.log == []


def test_a_file_without_any_digest_is_not_downloaded(web: Web, downloads: Downloads) -> None:
    web.pages["a.json"] = b"{}"
    with pytest.raises(IntegrityError, match="Add its sha256"):
        downloads.store.download(
            Url(UrlSource(web.url), ("a.json",)),
            "a.json",
            RemoteFile(2),
            Output(quiet=True).progress(None, ""),
            downloads.stop,
        )
    assert web.log == []


@pytest.mark.parametrize("oid_of", [b'{"dim": 2}', b'{"dim": 3}'], ids=["right", "wrong"])
def test_gits_object_id_stands_in_for_a_missing_sha256(
    repo: Repo, downloads: Downloads, source: HubClient, oid_of: bytes
) -> None:
    git = subprocess.run(["git", "hash-object", "--stdin"], input=oid_of, capture_output=True, check=True)
    expected = RemoteFile(10, git_oid=git.stdout.decode().strip())

    def download() -> bytes:
        progress = Output(quiet=True).progress(None, "")
        return downloads.store.download(source, "config.json", expected, progress, downloads.stop).path.read_bytes()

    if oid_of == b'{"dim": 2}':
        assert download() == oid_of
    else:
        with pytest.raises(IntegrityError, match=r"config\.json"):
            download()


def test_two_threads_that_want_one_blob_bring_it_once(hub: Hub, downloads: Downloads, source: HubClient) -> None:
    hub.faults.add(FILE, kind="slow", rate=2_000_000)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(downloads.get(source).path.read_bytes())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [WEIGHTS, WEIGHTS]
    assert [r.sent for r in hub.log.select(FILE, endpoint="cdn")] == [SIZE]


def test_stop_ends_a_download_and_keeps_what_has_arrived(downloads: Downloads) -> None:
    def stopping(piece: bytes) -> bytes:
        downloads.stop.set()
        return piece

    class Stopping(Table):
        @contextmanager
        def open(self, path: str, offset: int = 0) -> Iterator[Stream]:
            yield Stream(
                offset, (piece if at == 0 else stopping(piece) for at, piece in enumerate([b"ab", b"cd", b"ef"]))
            )

    with pytest.raises(CancelledDownloadError):
        downloads.get(Stopping())
    assert downloads.partial().read_bytes() == b"ab"
    with pytest.raises(CancelledDownloadError):
        downloads.get(Stopping())


def test_stop_ends_the_wait_for_another_process(downloads: Downloads, source: HubClient) -> None:
    from filelock import FileLock

    with FileLock(f"{downloads.partial()}.lock"):
        timer = threading.Timer(0.1, downloads.stop.set)
        timer.start()
        with pytest.raises(CancelledDownloadError):
            downloads.get(source)
        timer.join()


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A folder whose disk takes 256 KiB, and what makes room there: a real disk where this user may mount one, else writes
    that fail as on one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True).returncode == 0
    )
    if mounted:

        def enlarge() -> None:
            subprocess.run(["mount", "-o", "remount,size=4m", folder], check=True)

        yield folder, enlarge
        subprocess.run(["umount", folder], check=True)
        return
    opened: Any = Path.open

    class Small(BufferedWriter):
        def write(self, data: Any) -> int:
            if self.tell() + len(data) > 256 * 1024:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    def small(path: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        file = opened(path, mode, *arguments, **named)
        return Small(file.detach()) if mode == "ab" else file

    monkeypatch.setattr(Path, "open", small)
    yield folder, lambda: monkeypatch.setattr(Path, "open", opened)


def test_a_full_disk_is_said_and_resumed_when_there_is_room(
    hub: Hub, source: HubClient, small_disk: tuple[Path, Callable[[], None]]
) -> None:
    folder, make_room = small_disk
    downloads = Downloads(folder / "blobs")
    with pytest.raises(MachineError, match=f"disk that holds {folder}.* is full") as caught:
        downloads.get(source)
    assert (caught.value.exit_code, downloads.kept) == (7, PARTIAL)
    had = downloads.partial().stat().st_size
    assert 100_000 < had <= 256 * 1024
    make_room()
    assert downloads.get(source).path.read_bytes() == WEIGHTS
    assert hub.log.select(FILE, endpoint="cdn")[-1].sent == SIZE - had


@pytest.mark.parametrize("place", ["/sys/modelbake", "file/cache", "file"])
def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, source: HubClient, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="cannot be written"):
        Downloads(tmp_path / place).get(source)
