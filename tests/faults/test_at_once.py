"""Several commands at once, and one that dies while others wait for it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.exporter import WEIGHTS
from tests.faults.project import Project


def paused(project: Project, match: str) -> dict[str, Any]:
    """A fault that holds a command before its first change of a path with `match`, until `go_on`."""
    return {"kind": "pause", "match": match, "until": str(project.folder / "go")}


def go_on(project: Project) -> None:
    (project.folder / "go").touch()


def slow(project: Project) -> None:
    project.hub.faults.add(WEIGHTS, kind="slow", rate=500_000, endpoint="cdn", times=None)


def total(project: Project) -> int:
    return sum(len(content) for files in project.sources.values() for content in files.values())


@pytest.mark.parametrize("count", [2, 4])
def test_builds_of_one_bundle_transfer_and_make_it_once(project: Project, count: int) -> None:
    project.define()
    slow(project)
    done = [running.wait().succeeded() for running in [project.start("build") for _ in range(count)]]
    assert sum("exporting" in one.err for one in done) == 1
    assert project.sent() == total(project)
    assert project.listed() == ["small"]
    assert project.remains() == []


def test_builds_of_several_bundles_lose_no_entry(project: Project) -> None:
    names = [f"small-{number}" for number in range(5)]
    for number, name in enumerate(names):
        project.define(name, seed=number)
    for running in [project.start("build", name) for name in names]:
        running.wait().succeeded()
    assert project.listed() == names
    assert project.sent() == total(project)
    assert project.remains() == []


def test_a_fetch_and_a_build_of_one_bundle(project: Project) -> None:
    project.define()
    slow(project)
    for running in [project.start(*words) for words in (("fetch",), ("build",), ("fetch",))]:
        running.wait().succeeded()
    assert project.sent() == total(project)
    assert project.listed() == ["small"]


def test_the_command_itself_twice(project: Project) -> None:
    """`python -m modelbake`, with no driver and no fork between."""
    from concurrent.futures import ThreadPoolExecutor

    project.define()
    slow(project)
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(lambda _: project.real("fetch"), range(2)):
            done.succeeded()
    assert project.sent() == total(project)
    project.recovers("build")


# Where the first command stands when it dies: the path that it was about to change, and the lock that the second waits for.
STATIONS = {
    "download": ("blobs/sha256/", ".lock"),
    "sources": ("sources/small/.source.json", "locks/small.lock"),
    "export": (".partial/models/goldens", ".lock"),
    "verify": (".partial/parity.json", ".lock"),
    "install": (".staging/1", ".models.lock"),
    "manifest": ("models/model_manifest.json", ".models.lock"),
}


@pytest.mark.parametrize(("match", "lock"), STATIONS.values(), ids=STATIONS.keys())
@pytest.mark.parametrize("dies", [True, False], ids=["dies", "goes on"])
def test_one_waits_for_the_other_which(project: Project, match: str, lock: str, dies: bool) -> None:
    project.define()
    first = project.start("build", fault=paused(project, match))
    first.wait_until(lambda: any(match in change for change in first.changes))
    second = project.start("build")
    second.wait_for_lock(lock)
    assert project.listed() == []
    if dies:
        first.kill()
    else:
        go_on(project)
        first.wait().succeeded()
    second.wait().succeeded()
    # Of the two files one is whole when the first dies in `download`, and the other may be on its way to it.
    lost = max(map(len, project.sources["small"].values())) if dies and match == STATIONS["download"][0] else 0
    assert total(project) <= project.sent() <= total(project) + lost
    assert project.listed() == ["small"]
    assert project.remains() == []


def test_sample_weights_are_not_drawn_away_under_a_build_that_reads_them(project: Project) -> None:
    project.define(sample=True)
    words = ("build", "--weights", "sample")
    first = project.start(*words, fault=paused(project, "steps/export"))
    first.wait_until(lambda: any("steps/export" in change for change in first.changes))
    weights = project.cache / "sources" / "small" / "files" / WEIGHTS
    before = weights.stat()
    project.run(*words).succeeded()
    assert (weights.stat().st_ino, weights.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    go_on(project)
    first.wait().succeeded()
    assert project.listed() == ["small"]


def test_an_old_and_a_new_version_at_once_end_with_one_of_them_whole(project: Project) -> None:
    project.define(seed=1)
    first = project.start("build", fault=paused(project, ".staging/1"))
    first.wait_until(lambda: any(".staging/1" in change for change in first.changes))
    project.define(seed=2)
    second = project.start("build")
    second.wait_for_lock(".models.lock")
    go_on(project)
    first.wait().succeeded()
    second.wait().succeeded()
    assert project.listed() == ["small"]
    project.run("verify").succeeded()
    before = project.contents()
    project.run("build").succeeded()
    assert project.contents() == before
