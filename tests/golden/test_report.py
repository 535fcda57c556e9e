"""The report in a real browser: what it shows, that it asks for nothing, and that hostile words stay words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from modelbake import manifest
from modelbake.manifest import Manifest
from tests.golden.browser import Browser
from tests.golden.conftest import Built, environment, modelbake
from tests.unit import tiny


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture(scope="module")
def page(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of all bundles."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    modelbake("report", "--to", str(path), environ=built.environ)
    return path


def rows(browser: Browser, table: str) -> list[list[str]]:
    found: list[list[str]] = browser.value(
        f"[...document.querySelectorAll('#{table} tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
    )
    return found


def test_the_report_of_the_built_bundles_shows_every_artifact_and_asks_for_nothing(
    built: Built, page: Path, browser: Browser
) -> None:
    browser.requests.clear()
    browser.open(page)
    assert browser.complaints == []
    # The page itself, and its own empty icon.
    assert {address for address in browser.requests if not address.startswith("data:")} == {page.as_uri()}
    entries = manifest.read(built.models).bundles
    artifacts = [artifact for entry in entries for artifact in entry.artifacts]
    assert [row[0].split("\n")[0] for row in rows(browser, "artifacts")] == [artifact.path for artifact in artifacts]
    assert {(row[0], row[3]) for row in rows(browser, "speed")} == {(a.path, str(b)) for a in artifacts for b in (1, 8)}
    shown = browser.value("document.body.innerText")
    for entry in entries:
        for words in (
            entry.name,
            entry.licence,
            entry.digest,
            entry.description,
            *(r.sha256 for r in entry.source.files),
        ):
            assert words in shown
        assert entry.source.commit is None or entry.source.commit in shown
    assert "On this machine: " in shown
    sample = [entry.name for entry in entries if entry.weights == "sample"]
    alarms = browser.value("[...document.querySelectorAll('.alarm')].map(a => a.innerText)")
    assert len(alarms) == bool(sample)
    assert all(name in alarms[0] for name in sample)


def test_every_plot_has_its_bars_and_the_page_fits_its_window(built: Built, page: Path, browser: Browser) -> None:
    browser.open(page)
    plots = browser.value(
        "[...document.querySelectorAll('svg.plot')].map(s => ({w: s.getBoundingClientRect().width, "
        "h: s.getBoundingClientRect().height, bars: [...s.querySelectorAll('.bar')].map(b => b.getBoundingClientRect().width)}))"
    )
    artifacts = [artifact for entry in manifest.read(built.models).bundles for artifact in entry.artifacts]
    # Size, and speed at two batch sizes; parity of those that are no variants.
    count = 3 * len(artifacts) + sum(artifact.parity is not None for artifact in artifacts)
    assert len(plots) >= 4
    for plot in plots:
        assert plot["w"] > 300
        assert plot["h"] > 20 * len(plot["bars"]) > 0
        assert all(0 < width < plot["w"] for width in plot["bars"])
    assert sum(len(plot["bars"]) for plot in plots) == count
    assert browser.value("document.documentElement.scrollWidth <= window.innerWidth")


def test_it_follows_the_reader_s_scheme_and_prints(page: Path, browser: Browser) -> None:
    browser.open(page)
    corner = []
    try:
        for scheme in ("light", "dark"):
            browser.media(scheme=scheme)
            corner.append(np.asarray(Image.open(BytesIO(browser.picture())).convert("L"))[5, 5])
        browser.media("print", "dark")
        assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert browser.pdf().startswith(b"%PDF")
    finally:
        browser.media()
    assert corner[0] > 200
    assert corner[1] < 60


@pytest.fixture
def trap() -> Iterator[tuple[str, list[str]]]:
    """A web server's address and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_hostile_words_stay_words(tmp_path: Path, browser: Browser, trap: tuple[str, list[str]]) -> None:
    address, asked = trap
    script = f"<script>document.title='owned';fetch('{address}/s')</script><img src={address}/i onerror=\"document.title='owned'\">"
    hostile = f"{script}</td></table></style></title><svg onload=alert(1)>&amp;\"'\0]]>-->"
    models = tmp_path / "models"
    models.mkdir()
    entry = tiny.text_bundle(models)
    artifact = replace(entry.artifacts[0], tools={hostile: hostile})
    spoilt = replace(
        entry,
        description=hostile,
        licence=hostile,
        kind=hostile,
        source=replace(entry.source, repository=hostile, commit=hostile),
        artifacts=(artifact,),
    )
    manifest.write(models, Manifest(1, (spoilt, tiny.image_bundle(models))))
    page = tmp_path / "report.html"
    modelbake("report", "--to", str(page), environ=environment(tmp_path))
    browser.requests.clear()
    browser.open(page)
    assert browser.complaints == []
    assert browser.value("document.title") == "modelbake report"
    assert (
        browser.value("document.querySelectorAll('script, img, iframe, object, svg [onload], [onerror]').length") == 0
    )
    assert script in browser.value("document.querySelector('#bundles').textContent")
    assert browser.value("document.querySelectorAll('#artifacts tbody tr').length") == 2
    assert {address for address in browser.requests if not address.startswith("data:")} == {page.as_uri()}
    assert asked == []


def test_the_browser_does_tell_of_a_page_that_asks_and_complains(
    tmp_path: Path, browser: Browser, trap: tuple[str, list[str]]
) -> None:
    """The tests above look for nothing; here is what they would see."""
    address, asked = trap
    page = tmp_path / "bad.html"
    page.write_text(f"<title>x</title><img src='{address}/i'><script>console.error('no')</script>")
    try:
        browser.open(page)
        assert f"{address}/i" in browser.requests
        assert asked == ["/i"]
        assert any("no" in complaint for complaint in browser.complaints)
        # And the report's own policy would stop both.
        policy = "default-src 'none'; img-src data:"
        page.write_text(f'<meta http-equiv="Content-Security-Policy" content="{policy}">{page.read_text()}')
        asked.clear()
        browser.open(page)
        assert asked == []
        assert any("Content Security Policy" in complaint for complaint in browser.complaints)
    finally:
        browser.complaints.clear()
