"""The small sources: a web address, a folder of the project, weights drawn from a seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelbake.bundle import LocalSource, UrlSource
from modelbake.digests import Digests
from modelbake.errors import RefusedError, SourceUnreachableError
from modelbake.sources.base import RemoteFile
from modelbake.sources.local import Local
from modelbake.sources.sample import Sample
from modelbake.sources.url import Url
from tests.unit.sources.support import FILE, SAMPLE, WEIGHTS, Downloads, Web, draw, sha256


def test_a_web_address_is_asked_for_each_file_and_gives_its_size(web: Web, downloads: Downloads) -> None:
    web.pages |= {f"m/{FILE}": WEIGHTS, "m/1%20a/b%3Fc.json": b"{}"}
    source = Url(UrlSource(f"{web.url}m/"), (FILE, "1 a/b?c.json", "absent"))
    assert source.inventory() == {FILE: RemoteFile(len(WEIGHTS)), "1 a/b?c.json": RemoteFile(2)}
    assert {asked.method for asked in web.log} == {"HEAD"}
    assert downloads.get(source).path.read_bytes() == WEIGHTS
    assert downloads.get(source, b"{}", "1 a/b?c.json").path.read_bytes() == b"{}"


def test_a_web_address_resumes_through_a_redirect(web: Web, downloads: Downloads) -> None:
    web.pages["elsewhere"], web.redirects[FILE] = WEIGHTS, "/elsewhere"
    downloads.partial().write_bytes(WEIGHTS[:150_000])
    assert downloads.get(Url(UrlSource(web.url), (FILE,))).path.read_bytes() == WEIGHTS
    assert web.sent("elsewhere") == len(WEIGHTS) - 150_000


def test_a_web_server_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(SourceUnreachableError, match=r"127\.0\.0\.1:9"):
        Url(UrlSource("http://127.0.0.1:9/"), (FILE,)).inventory()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "small"
    (folder / "sub").mkdir(parents=True)
    (folder / FILE).write_bytes(WEIGHTS)
    (folder / "sub" / "a.json").write_bytes(b"{}")
    return folder


def test_a_folder_gives_its_files(folder: Path, tmp_path: Path, downloads: Downloads) -> None:
    source = Local(LocalSource("data/small"), tmp_path)
    assert source.inventory() == {FILE: RemoteFile(len(WEIGHTS)), "sub/a.json": RemoteFile(2)}
    downloads.partial().write_bytes(WEIGHTS[:100])
    assert downloads.get(source).path.read_bytes() == WEIGHTS


def test_a_folder_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachableError, match="not a folder"):
        Local(LocalSource("data/absent"), tmp_path).inventory()


@pytest.mark.parametrize("folder_name", ["../outside", "/etc", "data/../..", ""])
def test_a_folder_outside_the_project_is_refused(tmp_path: Path, folder_name: str) -> None:
    with pytest.raises(RefusedError):
        Local(LocalSource(folder_name), tmp_path)


@pytest.mark.parametrize("path", ["link", "linked/file", "../outside/file"])
def test_a_link_that_leaves_the_folder_is_refused(folder: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"not yours")
    (folder / "link").symlink_to(tmp_path / "outside" / "file")
    (folder / "linked").symlink_to(tmp_path / "outside")
    with pytest.raises(RefusedError) as caught:
        Local(LocalSource("data/small"), tmp_path).open(path)
    assert caught.value.exit_code == 8


def test_a_link_that_stays_in_the_folder_is_followed(folder: Path, tmp_path: Path, downloads: Downloads) -> None:
    (folder / "alias").symlink_to(FILE)
    assert downloads.get(Local(LocalSource("data/small"), tmp_path), path="alias").path.read_bytes() == WEIGHTS


def test_sample_weights_are_drawn_once_and_listed_with_their_digests(tmp_path: Path) -> None:
    seeds: list[int] = []

    def drawing(seed: int) -> Path:
        seeds.append(seed)
        return draw(tmp_path / "drawn", seed)

    source = Sample(SAMPLE, drawing, Digests(tmp_path))
    listing = source.inventory()
    content = (tmp_path / "drawn" / "sub" / FILE).read_bytes()
    assert source.inventory() == listing == {f"sub/{FILE}": RemoteFile(1000, sha256(content))}
    assert seeds == [SAMPLE.seed]
    with source.open(f"sub/{FILE}", 10) as stream:
        assert b"".join(stream.chunks) == content[10:]
