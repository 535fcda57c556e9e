"""Reading over HTTP: odd headers, odd addresses, odd servers end in our errors and in no others."""

from __future__ import annotations

import email.utils
import time
from http.server import BaseHTTPRequestHandler

import httpx2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelbake.errors import ModelbakeError, SourceUnreachableError
from modelbake.patience import MAX_RETRY_AFTER, TransientError, retry_after
from modelbake.sources.http import NoRangesError, content_length, open_url, read_range
from tests.unit.sources.support import WEIGHTS, Web


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 12 ", 12.0),
        ("61", MAX_RETRY_AFTER),
        ("9" * 5000, MAX_RETRY_AFTER),
        ("-1", None),
        ("\u00b2", None),
        ("soon", None),
        ("", None),
        ("Wed, 02 Jan 2019 03:04:05 GMT", 0.0),
        ("Wed, 02 Jan 99999 03:04:05 GMT", None),
        ("Wed, 99 Foo 2019 03:04:05 GMT", None),
    ],
)
def test_retry_after_is_a_number_or_a_date_and_anything_else_is_as_if_absent(
    value: str | None, seconds: float | None
) -> None:
    assert retry_after(value) == seconds


def test_retry_after_as_a_date_counts_from_now() -> None:
    found = retry_after(email.utils.formatdate(time.time() + 30, usegmt=True))
    assert found is not None
    assert 20 < found <= 30


@given(st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+( GMT| [+-]\d+)?"))
@example("0\x1f")
def test_retry_after_of_any_text_is_none_or_between_zero_and_the_longest(value: str) -> None:
    found = retry_after(value)
    assert found is None or 0 <= found <= MAX_RETRY_AFTER


@pytest.mark.parametrize(
    "url", ["http://[::1/", "http://exa mple/", "http://a:b/", "http:///", "http://\0/", "ftp://a/"]
)
@pytest.mark.parametrize(
    "ask", [content_length, lambda url: read_range(url, 0, 1), lambda url: open_url(url).__enter__()]
)
def test_an_address_that_is_none_is_an_error_of_ours(ask: object, url: str) -> None:
    with pytest.raises(SourceUnreachableError):
        ask(url)  # type: ignore[operator]


@pytest.mark.parametrize(
    "ask", [content_length, lambda url: read_range(url, 0, 1), lambda url: open_url(url).__enter__()]
)
def test_a_circle_of_redirects_is_not_tried_again(web: Web, ask: object) -> None:
    web.redirects |= {"a": "/b", "b": "/a"}
    with pytest.raises(SourceUnreachableError, match="TooManyRedirects") as caught:
        ask(f"{web.url}a")  # type: ignore[operator]
    assert not isinstance(caught.value, TransientError)


def test_user_password_and_query_of_an_address_are_in_no_message(web: Web) -> None:
    address = web.url.replace("http://", "http://user:planted@") + "absent?key=planted"
    with pytest.raises(SourceUnreachableError, match="HTTP 404") as caught, open_url(address):
        pass
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("ask", "again"),
    [
        (content_length, False),
        (lambda url: read_range(url, 0, 1), False),
        (lambda url: open_url(url).__enter__(), True),
    ],
    ids=["content_length", "read_range", "open_url"],
)
def test_a_server_that_is_not_there_is_asked_again_only_within_a_download(ask: object, again: bool) -> None:
    with pytest.raises(SourceUnreachableError, match="ConnectError") as caught:
        ask("http://127.0.0.1:9/a")  # type: ignore[operator]
    assert isinstance(caught.value, TransientError) is again


def test_a_range_is_read_with_the_whole_files_size(web: Web) -> None:
    web.pages["a"] = WEIGHTS
    assert read_range(f"{web.url}a", 5, 9) == (WEIGHTS[5:10], len(WEIGHTS))
    assert read_range(f"{web.url}a", len(WEIGHTS) - 2, len(WEIGHTS) + 100) == (WEIGHTS[-2:], len(WEIGHTS))


def test_a_server_without_ranges_is_known_before_its_file_is_read(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.pages["a"], web.ranges = WEIGHTS, False

    def read(response: httpx2.Response) -> bytes:
        raise AssertionError("the whole file was read")

    monkeypatch.setattr(httpx2.Response, "iter_raw", read)
    with pytest.raises(NoRangesError):
        read_range(f"{web.url}a", 0, 10)


@pytest.mark.parametrize(
    ("content_range", "body"),
    [
        ("bytes 0-9/100", b"0123456789"),
        ("bytes 10-18/100", b"012345678"),
        ("bytes 10-19/100", b"012345678"),
        ("bytes 10-19/100", b"0123456789a"),
        ("bytes 10-99/100", b"0" * 90),
        ("bytes 10-19/*", b"0123456789"),
        ("bytes 10-19/\xb2", b"0123456789"),
        ("lines 10-19/100", b"0123456789"),
        ("", b"0123456789"),
    ],
)
def test_another_range_than_asked_for_is_refused(web: Web, content_range: str, body: bytes) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> bool:
        handler.send_response(206)
        handler.send_header("Content-Range", content_range)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        return True

    web.interfere = answer
    with pytest.raises(ModelbakeError):
        read_range(f"{web.url}a", 10, 19)
