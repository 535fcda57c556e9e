"""What the tests of faults share: one driver for all, and a project with a hub for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.mounts import can_mount
from tests.faults.project import Project, Server
from tests.hub import Hub


def pytest_report_header() -> str:
    """Nothing is left out unsaid."""
    means = (
        "tmpfs and read-only mounts, besides simulated ones" if can_mount() else "simulated alone: no right to mount"
    )
    return f"faults: full and read-only disks are {means}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """How many commands met a fault at a change of the file system; those of the hub, of files and of archives are not in it."""
    if _INJECTED in config.stash:
        terminalreporter.write_line(f"{config.stash[_INJECTED]} commands were killed, held, or refused room or writing")


_INJECTED = pytest.StashKey[int]()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("driver"))
    yield server
    pytestconfig.stash[_INJECTED] = server.injected
    server.close()


@pytest.fixture
def project(tmp_path: Path, hub: Hub, server: Server) -> Project:
    return Project(tmp_path, hub, server)
