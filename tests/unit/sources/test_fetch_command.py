"""`modelbake fetch` itself: exit codes, JSON, and processes that are killed, interrupted, or two at once."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec
import pytest

from modelbake import pipeline
from modelbake.bundle import Bundle, FilePin, HubSource
from modelbake.cli.main import run
from tests.hub import Hub, Repo
from tests.unit.sources.support import (
    CONFIG,
    FILE,
    REPOSITORY,
    SAMPLE,
    WEIGHTS,
    draw,
    make_bundle,
    pin,
    sha256,
    write_definition,
)

LARGE = Random(1).randbytes(1_500_000)
PARTIAL = f"blobs/partial/{sha256(LARGE)}"


@dataclass(frozen=True)
class Project:
    """A project of test definitions, whose environment is that of this process."""

    root: Path
    cache: Path
    hub: Hub

    def define(self, bundle: Bundle) -> None:
        write_definition(self.root, bundle)

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "modelbake", "fetch", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def start_and_wait_for_half(self, *words: str) -> subprocess.Popen[str]:
        """The command, when half of the large file has arrived; then its sending goes on slowly enough to be met there."""
        process = self.start(*words)
        deadline = time.monotonic() + 20
        partial = self.cache / PARTIAL
        while not (partial.exists() and partial.stat().st_size >= len(LARGE) // 2):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "half of the file did not arrive"
            time.sleep(0.005)
        return process

    @property
    def visible(self) -> list[str]:
        """Every file in the cache but locks."""
        files = (path for path in self.cache.rglob("*") if path.is_file() and path.suffix != ".lock")
        return sorted(path.relative_to(self.cache).as_posix() for path in files)


@pytest.fixture
def project(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path / "project", tmp_path / "cache", hub)
    (project.root / "bundles").mkdir(parents=True)
    monkeypatch.setenv("MODELBAKE_ROOT", str(project.root))
    monkeypatch.setenv("MODELBAKE_CACHE", str(project.cache))
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr(
        pipeline.Pipeline, "_sample", lambda self, bundle, seed: draw(self.settings.cache_dir / "drawn", seed)
    )
    return project


@pytest.fixture
def small(project: Project, repo: Repo) -> Bundle:
    """A bundle whose real files the hub has."""
    source = HubSource(REPOSITORY, repo.branches["main"])
    bundle = make_bundle([source, SAMPLE], [pin(FILE, WEIGHTS), pin("config.json", CONFIG)])
    project.define(bundle)
    return bundle


@pytest.fixture
def large(project: Project) -> Bundle:
    """A bundle whose one file the hub sends in about a second."""
    repo = project.hub.add_repo("org/large", {FILE: LARGE})
    project.hub.faults.add(FILE, kind="slow", rate=2_000_000, endpoint="cdn")
    bundle = make_bundle([HubSource("org/large", repo.branches["main"])], [pin(FILE, LARGE)], name="large")
    project.define(bundle)
    return bundle


def test_the_result_is_one_json_object_a_bundle(
    project: Project, small: Bundle, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["fetch", "small", "--json", "--to", str(tmp_path / "to")]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "bundle": "small",
            "weights": "pretrained",
            "folder": str(tmp_path / "to" / "small"),
            "files": 2,
            "size": len(WEIGHTS) + len(CONFIG),
        }
    ]
    assert (tmp_path / "to" / "small" / "files" / FILE).read_bytes() == WEIGHTS


def test_fetching_into_the_folder_of_the_definitions_deletes_none(project: Project, small: Bundle) -> None:
    assert run(["fetch", "small", "--to", str(project.root / "bundles")]) == 0
    assert (project.root / "bundles" / "small" / "bundle.toml").is_file()


Spoil = Callable[[Project, Bundle, pytest.MonkeyPatch], None]


def _unpinned(project: Project, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = HubSource(REPOSITORY, "main")
    project.define(msgspec.structs.replace(bundle, name="open", pinned=False, sources=(spec,), files=(FilePin(FILE),)))


@pytest.mark.parametrize(
    ("words", "code", "message", "spoil"),
    [
        (["absent"], 3, "no bundle 'absent'", None),
        (["small", "open", "--locked"], 8, "open: .*pinned = false", _unpinned),
        (["small", "--weights", "best"], 2, "best", None),
        (["small"], 5, FILE, lambda p, b, m: p.hub.faults.add(FILE, kind="flip", offset=9, times=None)),
        (["small", "--weights", "pretrained"], 4, REPOSITORY, lambda p, b, m: p.hub.faults.add(kind="status", status=404, times=None)),
        (["small"], 4, "WEIGHTS=pretrained|HF_ENDPOINT", lambda p, b, m: (m.setenv("WEIGHTS", "pretrained"), m.setenv("HF_ENDPOINT", "http://127.0.0.1:9"))),
        (["small"], 2, "WEIGHTS='best'", lambda p, b, m: m.setenv("WEIGHTS", "best")),
        (["small"], 7, "/sys/", lambda p, b, m: m.setenv("MODELBAKE_CACHE", "/sys/modelbake")),
        (["small", "--to", "/sys/modelbake"], 7, "/sys/", None),
    ],
    ids=["unknown", "unpinned", "usage", "wrong bytes", "hub gone", "no hub", "bad policy", "cache", "target"],
)  # fmt: skip
def test_a_failure_is_one_message_and_its_exit_code(
    project: Project,
    small: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
    spoil: Spoil | None,
) -> None:
    if spoil is not None:
        spoil(project, small, monkeypatch)
    assert run(["fetch", "--json", *words]) == code
    printed = capsys.readouterr()
    assert re.search(f"error: .*{message}", printed.err, re.DOTALL)
    assert "Traceback" not in printed.err
    if words[-1] != "best":
        answer = json.loads(printed.out)
        assert answer["exit_code"] == code
        assert re.search(message, answer["error"])


def test_sample_weights_in_place_of_real_ones_are_said_even_when_quiet(
    project: Project, small: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert run(["fetch", "small", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert "SAMPLE WEIGHTS" in printed.err
    assert f"hub {REPOSITORY}" in printed.err
    assert printed.out.startswith("small: sample weights")


def test_killed_at_half_and_started_again_it_transfers_only_the_rest(project: Project, large: Bundle) -> None:
    process = project.start_and_wait_for_half("large")
    process.kill()
    process.communicate()
    had = (project.cache / PARTIAL).stat().st_size
    assert len(LARGE) // 2 <= had < len(LARGE)
    assert project.visible == [PARTIAL]
    again = project.start("large")
    assert (again.wait(20), again.communicate()[1]) == (0, "")
    last = project.hub.log.select(FILE, endpoint="cdn")[-1]
    assert (last.range, last.status, last.sent) == (f"bytes={had}-", 206, len(LARGE) - had)
    assert (project.cache / "sources" / "large" / "files" / FILE).read_bytes() == LARGE


def test_interrupted_it_exits_130_and_leaves_nothing_but_what_has_arrived(project: Project, large: Bundle) -> None:
    process = project.start_and_wait_for_half("large", "--json")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert json.loads(output)["exit_code"] == 130
    assert project.visible == [PARTIAL]


def test_interrupted_while_the_server_is_silent_it_does_not_wait_for_it(project: Project, large: Bundle) -> None:
    project.hub.faults.clear()
    project.hub.faults.add(FILE, kind="hang", after=len(LARGE) // 2 + 1, endpoint="cdn", times=None)
    process = project.start_and_wait_for_half("large")
    process.send_signal(signal.SIGINT)
    # A thread that went on waiting would hold the process for the 30 seconds that a read may take.
    process.communicate(timeout=15)
    assert process.returncode == 130


def test_two_processes_at_once_bring_a_file_once_and_both_succeed(project: Project, large: Bundle) -> None:
    processes = [project.start("large") for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")
    assert sum(request.sent for request in project.hub.log.select(FILE, endpoint="cdn")) == len(LARGE)
    assert (project.cache / "sources" / "large" / "files" / FILE).read_bytes() == LARGE
