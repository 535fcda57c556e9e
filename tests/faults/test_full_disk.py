"""A disk that is full: in every step one message and exit 7, nothing corrupt to be seen, and with room the rest is made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.faults.mounts import can_mount, small_disk
from tests.faults.project import Done, Project

ROOMY = 1 << 26
needs_mounts = [pytest.param("mounted")] if can_mount() else []


def is_full(done: Done) -> None:
    done.failed(7, "The disk that holds", "is full. Make room, then run this again.")


@pytest.mark.parametrize("weights", ["pretrained", "sample"])
def test_a_disk_that_is_full_from_any_change_on(project: Project, weights: str) -> None:
    """ENOSPC where a file, a folder or a name would be made, for each one."""
    project.define(sample=True)
    words = ("build", "small", "--weights", weights)
    changes = project.run(*words).succeeded().changes
    expected = project.contents()
    count = 0
    for number, change in enumerate(changes, 1):
        if change.partition(" ")[0] not in ("open", "os.mkdir", "os.rename", "os.link"):
            continue
        count += 1
        project.reset()
        is_full(project.run(*words, fault={"kind": "full", "at": number}))
        assert project.listed() == [], change
        assert [path for path in project.remains() if "blobs/partial" not in path] == [], change
        if weights == "sample":
            project.run(*words).succeeded()
        else:
            project.recovers(*words)
        assert project.contents() == expected, change
    assert count > 25


def test_a_newer_version_that_does_not_fit_leaves_the_old_one(project: Project) -> None:
    project.define("other", seed=3)
    project.define("small", seed=1)
    project.run("build").succeeded()
    project.define("small", seed=2)
    kept, old = project.keep(), project.contents()
    here = {"below": str(project.models)}
    changes = project.run("build", "small", fault=here).succeeded().changes
    for number, change in enumerate(changes, 1):
        project.reset(kept)
        done = project.run("build", "small", fault={"kind": "full", "at": number, **here})
        if ".staging" in change.partition(" ")[2].rpartition("/")[0] and "manifest" not in change:
            assert project.contents() == old, change
        assert "other" in project.listed(), change
        if done.code:
            is_full(done)
        project.recovers("build", "small")
        assert project.listed() == ["other", "small"]
        assert ".staging" not in {path.name for path in project.models.iterdir()}


def room(folder: Path) -> int:
    """Bytes that a tmpfs needs for what is in `folder`, in whole pages, links counted once."""
    done = subprocess.run(["du", "-s", "--block-size=1", str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


@pytest.mark.parametrize("means", needs_mounts)
@pytest.mark.parametrize("place", ["cache", "models"])
def test_a_small_disk_of_any_size_under(project: Project, place: str, means: str) -> None:
    project.define(sample=True)
    project.run("build", "--weights", "pretrained").succeeded()
    expected, needed = project.contents(), room(project.folder / place)
    full = 0
    for size in range(1 << 14, needed + (1 << 14), max(1 << 14, needed // 16)):
        project.reset()
        with small_disk(project.folder / place, size) as disk:
            done = project.run("build", "--weights", "pretrained")
            if done.code:
                is_full(done)
                assert project.listed() == []
                full += 1
            disk.resize(ROOMY)
            project.recovers("build", "--weights", "pretrained")
            assert project.contents() == expected
    assert full >= 8


@pytest.mark.parametrize("means", needs_mounts)
@pytest.mark.parametrize("weights", ["pretrained", "sample"])
def test_a_small_disk_for_the_sources(project: Project, weights: str, means: str) -> None:
    project.define(sample=True)
    to = project.folder / "to"
    words = ("fetch", "--to", str(to), "--weights", weights)
    for size in (1 << 12, 1 << 14, 1 << 16, 1 << 17, 1 << 18):
        with small_disk(to, size) as disk:
            is_full(project.run(*words))
            assert not (to / "small" / "source.json").exists()
            disk.resize(ROOMY)
            assert project.run(*words).succeeded().err == ""
            project.run("build", "--sources", str(to)).succeeded()
    assert project.listed() == ["small"]


@pytest.mark.parametrize("limit", [1_000, 4_000, 100_000, 200_000, 262_000])
@pytest.mark.parametrize("weights", ["pretrained", "sample"])
def test_a_limit_on_the_size_of_files(project: Project, weights: str, limit: int) -> None:
    """EFBIG in the middle of a file, from the system itself and with no right to mount: RLIMIT_FSIZE."""
    project.define(sample=True)
    words = ("build", "--weights", weights)
    project.run(*words, file_limit=limit).failed(7)
    assert project.listed() == []
    if weights == "sample":
        project.run(*words).succeeded()
    else:
        project.recovers(*words)
    assert project.listed() == ["small"]
