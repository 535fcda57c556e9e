"""A hub, a line and a cache that misbehave: what is fetched is right or refused, and what was right is not fetched again."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.faults.exporter import CONFIG, WEIGHTS, source_files
from tests.faults.project import Project
from tests.hub import HubProcess

SIZE = len(source_files(1)[WEIGHTS])
TOTAL = sum(map(len, source_files(1).values()))
OFFSETS = sorted(random.Random(20240601).sample(range(1, SIZE), 10))


def order(**fields: Any) -> dict[str, Any]:
    return {"match": WEIGHTS, "endpoint": "cdn", **fields}


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_a_connection_cut_anywhere_is_taken_up_there(project: Project, offset: int, how: str) -> None:
    project.define()
    project.hub.faults.add(**order(kind="cut", after=offset, how=how))
    project.run("build", "small").succeeded()
    assert project.listed() == ["small"]
    assert project.sent() == TOTAL
    project.recovers("build", "small")


def test_a_connection_cut_ten_times_over_brings_every_byte_once(project: Project) -> None:
    project.define()
    for start, end in zip([0, *OFFSETS], OFFSETS, strict=False):
        project.hub.faults.add(**order(kind="cut", after=end - start))
    project.real("fetch", "small").succeeded()
    assert project.sent() == TOTAL
    ranges = [request.range for request in project.hub.log.select(WEIGHTS, endpoint="cdn")]
    assert ranges == [None, *(f"bytes={offset}-" for offset in OFFSETS)]
    assert project.lacking() == 0


PASSING = {
    "cut before the answer": order(kind="cut"),
    "429 with seconds": order(kind="status", status=429, retry_after=1),
    "429 with a date": order(kind="status", status=429, retry_after=datetime.now(UTC) + timedelta(seconds=1)),
    "429 for the listing": {"endpoint": "info", "kind": "status", "status": 429, "retry_after": 1},
    "500": order(kind="status", status=500, times=2, retry_after=0),
    "502": order(kind="status", status=502, retry_after=0),
    "503": order(kind="status", status=503, retry_after=0),
    "504": order(kind="status", status=504),
    "500 for the listing": {"endpoint": "info", "kind": "status", "status": 500, "times": 2, "retry_after": 0},
    "500 at the redirect": {"match": WEIGHTS, "endpoint": "resolve", "kind": "status", "status": 500, "retry_after": 0},
    "wrong ETag": {"kind": "etag", "times": None},
    "shorter than promised": order(kind="short", count=1000),
    "longer than promised": order(kind="long", count=1000),
    "shorter, and promised so": order(kind="truncate", count=1000),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_what_may_pass_is_waited_for(project: Project, fault: dict[str, Any]) -> None:
    project.define()
    ordered = project.hub.faults.add(**fault)
    started = time.monotonic()
    project.run("build", "small").succeeded()
    assert ordered.hits > 0
    # A Retry-After in seconds is kept to; a date is rounded down to whole seconds, and may have come.
    assert time.monotonic() - started >= (1 if fault.get("retry_after") == 1 else 0)
    # The bytes past the promised ones may have been sent, but were not taken.
    assert 0 <= project.sent() - TOTAL <= 1000
    assert project.listed() == ["small"]
    project.recovers("build", "small")


LASTING = {
    "429 for good": (4, order(kind="status", status=429, retry_after=0, times=None), "429"),
    "500 for good": (4, order(kind="status", status=500, retry_after=0, times=None), "500"),
    "500 for the listing for good": (4, {"endpoint": "info", "kind": "status", "status": 500, "retry_after": 0, "times": None}, "500"),
    "404": (4, order(kind="status", status=404, times=None), "404"),
    "longer than pinned": (5, order(kind="pad", count=1000, times=None), WEIGHTS),
    "corrupt first byte": (5, order(kind="flip", offset=0, times=None), WEIGHTS),
    "corrupt byte": (5, order(kind="flip", offset=SIZE // 2, times=None), WEIGHTS),
    "corrupt last byte": (5, order(kind="flip", offset=SIZE - 1, times=None), WEIGHTS),
    "a login page": (5, order(kind="replace", body=b"<html>" + b" " * SIZE, times=None), WEIGHTS),
    "a login page for the listing": (4, {"endpoint": "info", "kind": "replace", "times": None}, "no listing"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "fault", "word"), LASTING.values(), ids=LASTING.keys())
def test_what_lasts_is_refused_and_the_next_run_brings_the_rest(
    project: Project, code: int, fault: dict[str, Any], word: str
) -> None:
    project.define("other", seed=3)
    project.run("build", "other").succeeded()
    before = project.contents()
    project.define()
    ordered = project.hub.faults.add(**fault)
    project.real("build", "small").failed(code, word, "org/small")
    assert ordered.hits > 0
    assert project.contents() == before
    assert project.lacking() in (SIZE, TOTAL)
    project.hub.faults.clear()
    project.recovers("build", "small")
    assert project.listed() == ["other", "small"]


def test_every_ill_turn_of_a_resumed_range_is_found_out(project: Project) -> None:
    for number, kind in enumerate(("ignore-range", "wrong-range", "lying-range")):
        name = f"small-{number}"
        project.define(name, seed=10 + number)
        project.hub.faults.add(**order(kind="cut", after=SIZE // 2))
        project.hub.faults.add(**order(kind=kind, start=7))
        project.run("build", name).succeeded()
        assert name in project.listed()
        project.recovers("build", name, name=name)


def test_a_hub_that_goes_away_and_comes_back_within_the_run(project: Project) -> None:
    project.define()
    repository = project.folder / "repository"
    for path, content in source_files(1).items():
        (repository / "org" / "small" / path).parent.mkdir(parents=True, exist_ok=True)
        (repository / "org" / "small" / path).write_bytes(content)
    fault = f"match={WEIGHTS},kind=hang,after={SIZE // 2},endpoint=cdn,times=none"
    with HubProcess(repository, "--fault", fault) as first:
        port = first.endpoint.rpartition(":")[2]
        project.more["HF_ENDPOINT"] = first.endpoint
        running = project.start("build", "small")
        running.wait_until(lambda: 0 < project.lacking() <= SIZE - SIZE // 2)
        first.kill()
    log = project.folder / "requests"
    with HubProcess(repository, "--port", port, log=log) as second:
        running.wait().succeeded()
        second.stop()
        assert second.log.sent(WEIGHTS) <= SIZE - SIZE // 2 + 1000
    assert project.listed() == ["small"]


def test_a_hub_that_goes_away_for_good_leaves_what_came(project: Project) -> None:
    project.define()
    project.hub.faults.add(**order(kind="cut", after=SIZE // 2))
    project.hub.faults.add(kind="status", match=WEIGHTS, endpoint="cdn", status=503, retry_after=0, times=None)
    project.run("build", "small").failed(4, "503")
    assert project.lacking() <= SIZE - SIZE // 2
    assert project.models.exists() is False
    project.hub.faults.clear()
    project.recovers("build", "small")
    assert project.listed() == ["small"]
    assert CONFIG in project.sources["small"]
