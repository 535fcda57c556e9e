"""Folders that may not be written to: exit 7 where that is needed, and no complaint where it is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.faults.mounts import can_mount, small_disk
from tests.faults.project import Project

ROOM = 1 << 24
MEANS = ["simulated", "mounted"] if can_mount() else ["simulated"]


@contextmanager
def place(project: Project, name: str, means: str) -> Iterator[Any]:
    """A folder of the project and a function that makes it read-only or writable; it gives the fault for the driver."""
    folder = project.folder / name
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(folder, ROOM)) if means == "mounted" else None

        def read_only(wanted: bool) -> dict[str, Any]:
            if disk is not None:
                disk.set_read_only(wanted)
                return {}
            return {"kind": "read-only", "below": str(folder)} if wanted else {}

        yield read_only


@pytest.mark.parametrize("means", MEANS)
def test_a_models_folder_is_left_as_it_is_and_still_verifies(project: Project, means: str) -> None:
    project.define(seed=1)
    with place(project, "models", means) as read_only:
        project.run("build").succeeded()
        before = project.contents()
        fault = read_only(True)
        # Nothing to change, so nothing to complain of.
        project.run("build", fault=fault).succeeded()
        project.run("verify", fault=fault).succeeded()
        project.run("list", "--built", fault=fault).succeeded()
        project.define(seed=2)
        project.run("build", fault=fault).failed(7, str(project.models), "Read-only file system", "another folder")
        assert project.contents() == before
        assert project.listed() == ["small"]
        project.run("verify", fault=fault).succeeded()
        read_only(False)
        again = project.recovers("build")
        assert "exporting" not in again.err
        assert project.contents() != before


@pytest.mark.parametrize("means", MEANS)
def test_an_empty_models_folder(project: Project, means: str) -> None:
    project.define()
    project.models.mkdir()
    with place(project, "models", means) as read_only:
        fault = read_only(True)
        project.run("build", fault=fault).failed(7, str(project.models), "Read-only file system")
        assert list(project.models.iterdir()) == []
        read_only(False)
        assert "exporting" not in project.recovers("build").err


@pytest.mark.parametrize("means", MEANS)
def test_a_cache(project: Project, means: str) -> None:
    project.define()
    project.cache.mkdir()
    with place(project, "cache", means) as read_only:
        fault = read_only(True)
        project.run("fetch", fault=fault).failed(7, str(project.cache), "Read-only file system")
        project.run("build", fault=fault).failed(7, str(project.cache), "Read-only file system")
        assert project.listed() == []
        read_only(False)
        project.recovers("build")


def test_a_models_folder_that_is_a_file(project: Project) -> None:
    project.define()
    project.models.write_text("mine")
    project.run("build").failed(7, str(project.models))
    assert project.models.read_text() == "mine"
    project.models.unlink()
    project.recovers("build")


@pytest.mark.parametrize("name", ["cache", "models"])
def test_a_folder_where_none_can_be_made(project: Project, name: str) -> None:
    project.define()
    project.more[f"MODELBAKE_{name.upper()}"] = "/sys/modelbake"
    project.run("build").failed(7, "/sys/modelbake" if name == "cache" else "/sys/")
    assert project.listed() == []
    project.more.clear()
    project.recovers("build")
