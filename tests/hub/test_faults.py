"""Faults on command: each kind shows on the wire as ordered, and does to the real client what it should."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from tests.hub import Hub
from tests.hub.conftest import WEIGHTS

FILE = "model.safetensors"


def download(hub: Hub, file: str = FILE) -> bytes:
    return Path(hf_hub_download("org/model", file, endpoint=hub.endpoint, token=False)).read_bytes()


def get(hub: Hub, asked: str | None = None, file: str = FILE) -> httpx2.Response:
    headers = {"Accept-Encoding": "identity"} | ({"Range": asked} if asked else {})
    return httpx2.get(f"{hub.endpoint}/org/model/resolve/main/{file}", headers=headers, follow_redirects=True)


@pytest.fixture(autouse=True)
def _model(model: str) -> None:
    """Every test here has the repository org/model."""


def test_429_with_seconds_makes_the_client_wait_that_long(hub: Hub, waits: list[float]) -> None:
    fault = hub.faults.add(FILE, kind="status", status=429, retry_after=30, method="GET", times=2)
    assert download(hub) == WEIGHTS
    assert (waits, fault.hits) == ([31.0, 31.0], 2)  # the client adds a second
    assert [request.status for request in hub.log.select(FILE, method="GET")] == [429, 429, 200]


def test_429_with_a_date_and_with_the_hubs_own_rate_headers(hub: Hub, waits: list[float]) -> None:
    moment = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    hub.faults.add(FILE, kind="status", status=429, retry_after=moment)
    assert get(hub).headers["Retry-After"] == "Wed, 02 Jan 2030 03:04:05 GMT"
    hub.faults.add(FILE, kind="status", status=429, method="GET", headers={"RateLimit": '"resolvers";r=0;t=7'})
    assert download(hub) == WEIGHTS
    assert waits == [8.0]


@pytest.mark.parametrize("status", [500, 502, 503])
def test_server_error_on_the_head_is_retried_by_the_client(hub: Hub, waits: list[float], status: int) -> None:
    hub.faults.add(FILE, kind="status", status=status, times=3)
    assert download(hub) == WEIGHTS
    assert [request.status for request in hub.log.select(FILE, method="HEAD")] == [status] * 3 + [302]
    assert waits == [1, 2]


def test_server_error_on_the_cdn_reaches_the_caller(hub: Hub) -> None:
    hub.faults.add(FILE, kind="status", status=503, endpoint="cdn")
    with pytest.raises(HfHubHTTPError, match="503"):
        download(hub)


def test_a_fault_with_no_limit_lasts_until_cleared(hub: Hub) -> None:
    fault = hub.faults.add(kind="status", status=500, times=None)
    with pytest.raises(LocalEntryNotFoundError):
        download(hub)
    with pytest.raises(HfHubHTTPError):
        HfApi(endpoint=hub.endpoint, token=False).model_info("org/model")
    assert fault.hits == len(hub.log) > 5
    hub.faults.clear()
    assert download(hub) == WEIGHTS


def test_connection_closed_midway_is_resumed_and_transfers_only_the_rest(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # the client keeps whole chunks of 10 MB only
    hub.faults.add(FILE, kind="cut", after=6000, how="fin")
    assert download(hub) == WEIGHTS
    first, second = hub.log.select(FILE, method="GET")
    assert (first.range, first.status, first.sent, first.fault) == (None, 200, 6000, "cut")
    assert (second.range, second.status, second.sent, second.fault) == ("bytes=6000-", 206, 4040, None)
    assert hub.log.sent(FILE) == len(WEIGHTS)


def test_reset_connection_delivers_the_bytes_before_it(hub: Hub) -> None:
    hub.faults.add(FILE, kind="cut", after=6000)
    pieces: list[bytes] = []
    url = httpx2.head(f"{hub.endpoint}/org/model/resolve/main/{FILE}").headers["Location"]
    with httpx2.stream("GET", url) as answer, pytest.raises(httpx2.ReadError, match="reset"):
        pieces.extend(answer.iter_raw())
    assert b"".join(pieces) == WEIGHTS[:6000]
    assert get(hub, "bytes=6000-").content == WEIGHTS[6000:]


def test_cut_before_any_answer(hub: Hub) -> None:
    hub.faults.add(FILE, kind="cut", how="fin")
    with pytest.raises(httpx2.RemoteProtocolError):
        get(hub)
    hub.faults.add(FILE, kind="cut", how="rst")
    with pytest.raises(httpx2.ReadError):
        get(hub)
    assert [request.status for request in hub.log] == [0, 0]


@pytest.mark.parametrize("asked", [None, "bytes=4000-"])
def test_flipped_byte_is_the_only_difference(hub: Hub, asked: str | None) -> None:
    hub.faults.add(FILE, kind="flip", offset=5000)
    content = get(hub, asked).content
    start = 4000 if asked else 0
    differing = [at for at, pair in enumerate(zip(content, WEIGHTS[start:], strict=True), start) if len(set(pair)) == 2]
    assert differing == [5000]


def test_flip_waits_for_a_request_whose_range_has_the_byte(hub: Hub) -> None:
    fault = hub.faults.add(FILE, kind="flip", offset=5000)
    assert get(hub, "bytes=0-4999").content == WEIGHTS[:5000]
    assert fault.hits == 0
    assert get(hub).content != WEIGHTS


def test_the_client_takes_a_flipped_byte_for_good(hub: Hub) -> None:
    hub.faults.add(FILE, kind="flip", offset=5000)
    assert download(hub) != WEIGHTS


def test_short_body_breaks_its_own_content_length(hub: Hub) -> None:
    hub.faults.add(FILE, kind="short", count=40)
    with pytest.raises(httpx2.RemoteProtocolError, match="received 10000 bytes, expected 10040"):
        get(hub)


def test_long_body_goes_on_after_its_content_length(hub: Hub) -> None:
    hub.faults.add(FILE, kind="long", count=40)
    answer = get(hub)
    assert (answer.content, answer.headers["Content-Length"]) == (WEIGHTS, "10040")
    assert hub.log[-1].sent == 10080


@pytest.mark.parametrize(("kind", "size"), [("truncate", 10000), ("pad", 10080)])
def test_file_of_another_size_fails_the_clients_check(hub: Hub, kind: str, size: int) -> None:
    hub.faults.add(FILE, kind=kind, count=40, times=2)  # type: ignore[arg-type]
    assert len(get(hub).content) == size
    with pytest.raises(OSError, match=f"should be of size 10040 but has size {size}"):
        download(hub)


def test_login_page_in_place_of_the_file(hub: Hub) -> None:
    hub.faults.add("config.json", kind="replace", body=b"<html>log in</html>")
    answer = get(hub, file="config.json")
    assert (answer.status_code, answer.content) == (200, b"<html>log in</html>")


def test_slow_body_arrives_whole(hub: Hub) -> None:
    hub.faults.add(FILE, kind="slow", rate=200_000)
    assert download(hub) == WEIGHTS
    assert hub.log[-1].fault == "slow"


def test_slow_and_hanging_bodies_end_when_the_hub_closes() -> None:
    with Hub() as hub:
        hub.add_repo("org/model", {"a.bin": WEIGHTS, "b.bin": WEIGHTS, "c.bin": WEIGHTS})
        hub.faults.add("a.bin", kind="slow", rate=20)
        hub.faults.add("b.bin", kind="hang", after=100)
        hub.faults.add("c.bin", kind="hang")
        endings: list[type[Exception]] = []

        def ask(file: str) -> None:
            try:
                get(hub, file=file)
            except httpx2.TransportError as error:
                endings.append(type(error))

        threads = [threading.Thread(target=ask, args=(f"{name}.bin",)) for name in "abc"]
        for thread in threads:
            thread.start()
        for _ in range(1000):
            if {request.file for request in hub.log if request.fault} == {"a.bin", "b.bin", "c.bin"}:
                break
            threading.Event().wait(0.01)
        hub.close()
        for thread in threads:
            thread.join()
    assert len(endings) == 3


@pytest.mark.parametrize("after", [None, 100])
def test_hanging_answer_lets_the_client_time_out(hub: Hub, after: int | None) -> None:
    hub.faults.add(FILE, kind="hang", after=after, endpoint="cdn")
    url = httpx2.head(f"{hub.endpoint}/org/model/resolve/main/{FILE}").headers["Location"]
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.get(url, timeout=0.1)
    assert hub.log[-1].sent == (after or 0)


def test_wrong_etag_is_what_the_client_sees(hub: Hub) -> None:
    hub.faults.add(FILE, kind="etag", etag="f" * 64, times=1)
    url = hf_hub_url("org/model", FILE, endpoint=hub.endpoint)
    assert get_hf_file_metadata(url, token=False, endpoint=hub.endpoint).etag == "f" * 64
    assert get_hf_file_metadata(url, token=False, endpoint=hub.endpoint).etag == hub.repos["org/model"].file(FILE).etag


def test_headers_can_be_set_and_taken_away(hub: Hub) -> None:
    hub.faults.add(FILE, kind="headers", headers={"X-Repo-Commit": None, "X-Extra": "1"})
    headers = httpx2.head(f"{hub.endpoint}/org/model/resolve/main/{FILE}").headers
    assert ("X-Repo-Commit" in headers, headers["X-Extra"]) == (False, "1")
    hub.faults.add(FILE, kind="headers", headers={"X-Repo-Commit": None})
    with pytest.raises(LocalEntryNotFoundError, match="missing the 'X-Repo-Commit' header"):
        download(hub)


def test_ignored_range_gives_the_whole_file(hub: Hub) -> None:
    fault = hub.faults.add(FILE, kind="ignore-range")
    assert get(hub).content == WEIGHTS
    assert fault.hits == 0  # it waits for a request that has a range
    answer = get(hub, "bytes=6000-")
    assert (answer.status_code, answer.content, "Content-Range" in answer.headers) == (200, WEIGHTS, False)


def test_client_starts_again_where_its_range_is_ignored(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.faults.add(FILE, kind="cut", after=6000, how="fin")
    hub.faults.add(FILE, kind="ignore-range")
    assert download(hub) == WEIGHTS
    assert hub.log.sent(FILE) == 6000 + len(WEIGHTS)


def test_wrong_range_says_what_it_sends(hub: Hub) -> None:
    hub.faults.add(FILE, kind="wrong-range", start=1)
    answer = get(hub, "bytes=6000-6009")
    assert (answer.status_code, answer.headers["Content-Range"]) == (206, "bytes 1-10/10040")
    assert answer.content == WEIGHTS[1:11]


def test_lying_range_sends_other_bytes_than_it_says(hub: Hub) -> None:
    hub.faults.add(FILE, kind="lying-range", start=1)
    answer = get(hub, "bytes=6000-6009")
    assert (answer.status_code, answer.headers["Content-Range"]) == (206, "bytes 6000-6009/10040")
    assert answer.content == WEIGHTS[1:11]


def test_faults_meet_only_what_they_match(hub: Hub) -> None:
    hub.faults.add("*.onnx", kind="status", times=None)
    hub.faults.add("/api/models/*", kind="status", times=None)
    hub.faults.add("config.json", kind="status", times=None, method="PUT")
    assert download(hub) == WEIGHTS
    assert download(hub, "1_Pooling/config.json") == b"{}"
    assert httpx2.get(f"{hub.endpoint}/api/models/org/model").status_code == 503


def test_skip_lets_the_first_requests_pass_and_the_first_fitting_fault_wins(hub: Hub) -> None:
    hub.faults.add(FILE, kind="status", status=500, endpoint="cdn", skip=1)
    hub.faults.add(FILE, kind="status", status=502, endpoint="cdn", skip=1)
    assert [get(hub).status_code for _ in range(4)] == [200, 500, 502, 200]


def test_unknown_kinds_and_fields_are_refused(hub: Hub) -> None:
    with pytest.raises(ValueError, match="unknown kind of fault 'explode'"):
        hub.faults.add(kind="explode")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="wheels"):
        hub.faults.add(kind="cut", wheels=4)
