"""Fallbacks: tried in their order, where the files before them cannot be had; never where bytes are wrong, and never silently."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from modelbake.bundle import Bundle, Fallback, FilePin, HubSource, LocalSource, TextEncoderModel
from modelbake.errors import IntegrityError, SourceUnreachableError
from modelbake.manifest import FileRef, PassedOver, SourceRecord
from modelbake.settings import Settings, WeightsPolicy
from modelbake.sources.fetch import Fetcher
from modelbake.sources.fetched import Fetched, read_fetched
from tests.hub import Hub, Repo
from tests.unit.sources.support import (
    FILE,
    SAMPLE,
    WEIGHTS,
    draw,
    make_bundle,
    make_settings,
    pin,
    refuse_to_draw,
    sha256,
)

FIRST, SECOND, THIRD = (f"org/{name}" for name in ("first", "second", "third"))
COMMIT = "0" * 40


@pytest.fixture
def settings(hub: Hub, tmp_path: Path) -> Settings:
    return make_settings(tmp_path, hub.endpoint)


def content(repository: str) -> bytes:
    return repository.encode() * 1000 + WEIGHTS


def fallback(repository: str, revision: str = COMMIT, *, pinned: bool = True) -> Fallback:
    file = pin(FILE, content(repository)) if pinned else FilePin(FILE)
    return Fallback(
        TextEncoderModel(repository.partition("/")[2], 2), "MIT", (HubSource(repository, revision),), (file,), pinned
    )


def make(hub: Hub, *present: str, pinned: tuple[bool, bool, bool] = (True, True, True)) -> Bundle:
    """A bundle of three candidates; the hub has those that are `present`."""
    repos: dict[str, Repo] = {name: hub.add_repo(name, {FILE: content(name)}) for name in present}
    commits = {name: repo.branches["main"] for name, repo in repos.items()}
    first, *others = (
        fallback(name, commits.get(name, COMMIT), pinned=is_pinned)
        for name, is_pinned in zip((FIRST, SECOND, THIRD), pinned, strict=True)
    )
    bundle = make_bundle([*first.sources, SAMPLE], list(first.files), pinned=first.pinned)
    return replace(bundle, model=first.model, fallbacks=tuple(others))


def fetch(settings: Settings, bundle: Bundle, drawing: Any = refuse_to_draw, policy: WeightsPolicy = "auto") -> Fetched:
    return Fetcher(settings).fetch(bundle, policy, drawing, settings.cache_dir / "to")


def brought(settings: Settings) -> bytes:
    return (settings.cache_dir / "to" / "files" / FILE).read_bytes()


def unreachable(*repositories: str) -> tuple[PassedOver, ...]:
    return tuple(PassedOver(name.partition("/")[2], "unreachable", name) for name in repositories)


def test_a_model_that_can_be_had_asks_for_no_fallback(
    hub: Hub, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(settings, make(hub, FIRST, SECOND, THIRD)).passed_over == ()
    assert brought(settings) == content(FIRST)
    assert {request.repo for request in hub.log} == {FIRST}
    assert "FALLBACK" not in capsys.readouterr().err


@pytest.mark.parametrize(("present", "passed"), [((SECOND, THIRD), (FIRST,)), ((THIRD,), (FIRST, SECOND))])
def test_fallbacks_are_tried_in_their_order_and_it_says_so(
    hub: Hub,
    settings: Settings,
    present: tuple[str, ...],
    passed: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = make(hub, *present)
    fetched = fetch(settings, bundle)
    assert fetched.passed_over == unreachable(*passed)
    assert brought(settings) == content(present[0])
    refs = (FileRef(FILE, sha256(content(present[0])), len(content(present[0]))),)
    assert fetched.source.files == refs
    assert fetched.source.repository == present[0]
    assert (fetched.weights, fetched.definition) == ("pretrained", bundle.digest)
    assert read_fetched(settings.cache_dir / "to") == fetched
    said = capsys.readouterr().err
    names = ", ".join(name.partition("/")[2] for name in passed)
    assert f"WARNING: small: FALLBACK to {present[0].partition('/')[2]} instead of {names}" in said
    assert all(f"hub {name}@" in said for name in passed)


def test_where_none_can_be_had_the_sample_is_the_first_one_s(hub: Hub, settings: Settings) -> None:
    bundle = make(hub)
    drawn: list[int] = []

    def note(seed: int) -> Path:
        drawn.append(seed)
        return draw(settings.cache_dir / "drawn", seed)

    fetched = fetch(settings, bundle, note)
    assert (fetched.weights, fetched.passed_over, len(drawn)) == ("sample", (), 1)
    assert isinstance(fetched.source, SourceRecord)


def test_pretrained_names_every_source_of_every_candidate(hub: Hub, settings: Settings) -> None:
    bundle = make(hub)
    local = replace(bundle.fallbacks[1], sources=(*bundle.fallbacks[1].sources, LocalSource("absent")))
    bundle = replace(bundle, fallbacks=(bundle.fallbacks[0], local))
    with pytest.raises(SourceUnreachableError) as caught:
        fetch(settings, bundle, policy="pretrained")
    said = str(caught.value)
    assert caught.value.exit_code == 4
    assert all(f"hub {name}@" in said for name in (FIRST, SECOND, THIRD))
    assert "folder" in said
    assert said.count("Check the network") == 1


@pytest.mark.parametrize("fault", ["listing", "transfer"])
@pytest.mark.parametrize("wrong", [FIRST, SECOND])
def test_wrong_bytes_end_the_fetch_and_are_no_reason_for_a_fallback(
    hub: Hub, settings: Settings, fault: str, wrong: str
) -> None:
    present = (FIRST, SECOND, THIRD) if wrong == FIRST else (SECOND, THIRD)
    bundle = make(hub, *present)
    if fault == "transfer":
        hub.faults.add(FILE, kind="flip", offset=10, times=None, endpoint="cdn")
    else:
        other = pin(FILE, b"what was pinned")
        first = {"files": (other,)} if wrong == FIRST else {}
        fallbacks = (
            bundle.fallbacks if wrong == FIRST else (replace(bundle.fallbacks[0], files=(other,)), fallback(THIRD))
        )
        bundle = replace(bundle, fallbacks=fallbacks, **first)
    with pytest.raises(IntegrityError, match=r"no source has the right bytes of model\.safetensors") as caught:
        fetch(settings, bundle)
    assert caught.value.exit_code == 5
    assert not (settings.cache_dir / "to" / "files").exists()


def test_a_locked_fetch_passes_over_what_is_not_pinned(
    hub: Hub, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make(hub, SECOND, THIRD, pinned=(True, False, True))
    fetched = fetch(dataclasses.replace(settings, locked=True), bundle)
    assert fetched.passed_over == (*unreachable(FIRST), PassedOver("second", "unpinned", SECOND))
    assert brought(settings) == content(THIRD)
    assert "second is not pinned, and --locked takes pinned bytes alone" in capsys.readouterr().err


def test_a_fallback_that_is_not_pinned_does_not_count_as_available_to_a_locked_build(
    hub: Hub, settings: Settings
) -> None:
    bundle = make(hub, SECOND, pinned=(True, False, True))
    assert Fetcher(settings).available(bundle)[0]
    assert not Fetcher(dataclasses.replace(settings, locked=True)).available(bundle)[0]


def test_a_fallback_counts_as_available(hub: Hub, settings: Settings) -> None:
    found, reasons = Fetcher(settings).available(make(hub, SECOND))
    assert found
    assert len([reason for reason in reasons if FIRST in reason]) == 1
    hub.faults.add(kind="status", status=404, times=None)
    found, reasons = Fetcher(settings).available(make(hub))
    assert not found
    assert all(any(f"hub {name}@" in reason for reason in reasons) for name in (FIRST, SECOND, THIRD))
