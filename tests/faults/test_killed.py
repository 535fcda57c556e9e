"""kill -9 before every single change of the file system, and in the middle of every file that is written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.project import Project

Fault = dict[str, Any]


def deaths(changes: list[str]) -> Iterator[Fault]:
    """A death before every change, and a torn file wherever one was being written."""
    for number, _ in enumerate(changes, 1):
        yield {"kind": "kill", "at": number}
        if number > 1 and changes[number - 2].startswith("open ") and not changes[number - 2].endswith(".lock"):
            yield {"kind": "tear", "at": number}


def places(changes: list[str], folder: Path) -> set[str]:
    """Where the changes were: the first two folders below `folder`."""
    paths = [Path(change.partition(" ")[2]) for change in changes]
    return {"/".join(path.relative_to(folder).parts[:2]) for path in paths if path.is_relative_to(folder)}


@pytest.mark.parametrize("weights", ["pretrained", "sample"])
def test_a_build_from_nothing_that_dies_anywhere_is_finished_by_the_next(project: Project, weights: str) -> None:
    project.define(sample=True)
    words = ("build", "small", "--weights", weights)
    changes = project.run(*words).succeeded().changes
    expected = project.contents()
    drawn = {"steps/sample"} if weights == "sample" else {"blobs/partial", "blobs/sha256"}
    assert drawn | {"steps/export", "steps/verify", "sources/small"} <= places(changes, project.cache)
    assert {"model_manifest.json", "onnx/small.onnx"} <= places(changes, project.models)
    count = 0
    for fault in deaths(changes):
        count += 1
        project.reset()
        project.run(*words, fault=fault).died()
        assert project.listed() in ([], ["small"]), fault
        exported = bool(project.results("export"))
        if weights == "sample":
            again = project.run(*words).succeeded()
            assert project.remains() == []
        else:
            again = project.recovers(*words)
        assert ("exporting" in again.err) is not exported, fault
        assert project.contents() == expected, fault
    assert count > 40


def test_a_newer_version_that_dies_while_it_is_installed_leaves_the_old_one_or_none(project: Project) -> None:
    project.define("other", seed=3)
    project.define("small", seed=1)
    project.run("build").succeeded()
    project.define("small", seed=2)
    kept = project.keep()
    here = {"below": str(project.models)}
    changes = project.run("build", "small", fault=here).succeeded().changes
    expected = project.contents()
    lists = set()
    for fault in deaths(changes):
        project.reset(kept)
        project.run("build", "small", fault={**fault, **here}).died()
        lists.add(tuple(project.listed()))
        assert "other" in project.listed(), fault
        project.recovers("build", "small")
        assert project.contents() == expected, fault
    assert lists == {("other", "small"), ("other",)}


def test_a_fetch_into_a_folder_that_dies_anywhere_is_finished_by_the_next(project: Project) -> None:
    project.define()
    to = project.folder / "to"
    words = ("fetch", "small", "--to", str(to))
    here = {"below": str(to)}
    to.mkdir()
    changes = project.run(*words, fault=here).succeeded().changes
    for fault in deaths(changes):
        shutil.rmtree(to)
        to.mkdir()
        project.run(*words, fault={**fault, **here}).died()
        build = project.run("build", "small", "--sources", str(to))
        assert (build.code, project.listed()) in ((5, []), (0, ["small"])), build.err
        project.recovers(*words)
        project.run("build", "small", "--sources", str(to)).succeeded()
        project.reset()
    assert len(changes) >= 5


def test_a_verify_that_dies_changes_nothing(project: Project) -> None:
    project.define()
    project.run("build").succeeded()
    before = project.contents()
    assert project.run("verify").succeeded().changes == []
    reads = {"reads": True, "below": str(project.models)}
    count = len(project.run("verify", fault=reads).succeeded().changes)
    for number in range(1, count + 1):
        project.run("verify", fault={"kind": "kill", "at": number, **reads}).died()
        assert project.contents() == before
    project.run("verify").succeeded()
    assert count >= 5
