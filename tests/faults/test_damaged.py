"""A byte that turned on the disk, in everything that is kept: never handed on, and put right by the next build."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.exporter import WEIGHTS
from tests.faults.project import Project


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes() or b"\0")
    content[len(content) // 2] ^= 0x10
    # A new file: hard links to the old one keep its bytes.
    path.unlink()
    path.write_bytes(content)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def empty(path: Path) -> None:
    path.unlink()
    path.touch()


def lose(path: Path) -> None:
    path.unlink()


def add(path: Path) -> None:
    (path.parent / "stray").write_bytes(b"x")


HARM: dict[str, Callable[[Path], None]] = {"flip": flip, "cut": cut, "empty": empty, "lose": lose}


@pytest.mark.parametrize("harm", [*HARM.values(), add], ids=[*HARM, "add"])
def test_every_kept_file_of_a_build_heals(project: Project, harm: Callable[[Path], None]) -> None:
    """The models folder is lost, and one file that the build kept is harmed: the same models come out again."""
    project.define(sample=True)
    words = ("build", "--weights", "sample")
    project.run(*words).succeeded()
    kept, expected = project.keep(), project.contents()
    files = [path for path in (kept / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert len(files) >= 12
    for path in files:
        project.reset(kept)
        shutil.rmtree(project.models)
        harm(project.cache / path.relative_to(kept / "cache"))
        project.run(*words).succeeded()
        assert project.contents() == expected, path


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
def test_a_harmed_blob_is_brought_again_and_no_other(project: Project, harm: Callable[[Path], None]) -> None:
    project.define()
    project.run("fetch").succeeded()
    before = project.sent()
    blobs = {path.stat().st_size: path for path in (project.cache / "blobs" / "sha256").iterdir()}
    size = len(project.sources["small"][WEIGHTS])
    harm(blobs[size])
    project.run("build").succeeded()
    assert project.sent() - before == size
    assert project.listed() == ["small"]


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
def test_a_harmed_file_of_fetched_sources_is_refused_and_fetched_again(
    project: Project, harm: Callable[[Path], None]
) -> None:
    project.define()
    to = project.folder / "to"
    project.run("fetch", "--to", str(to)).succeeded()
    harm(to / "small" / "files" / WEIGHTS)
    project.run("build", "--sources", str(to)).failed(5, WEIGHTS, "fetch it again")
    assert project.listed() == []
    project.run("fetch", "--to", str(to)).succeeded()
    project.run("build", "--sources", str(to)).succeeded()
    assert project.sent() == sum(map(len, project.sources["small"].values()))


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
def test_a_harmed_model_is_found_by_verify_and_put_right_by_a_build(
    project: Project, harm: Callable[[Path], None]
) -> None:
    project.define()
    project.run("build").succeeded()
    before = project.contents()
    for path in sorted(set(before) - {"model_manifest.json"}):
        harm(project.models / path)
        project.run("verify").failed(5, str(project.models / path))
        assert "exporting" not in project.recovers("build").err
        assert project.contents() == before
        project.run("verify").succeeded()


@pytest.mark.parametrize("harm", [flip, cut, empty], ids=["flip", "cut", "empty"])
def test_a_harmed_manifest_is_refused_and_not_written_over(project: Project, harm: Callable[[Path], None]) -> None:
    """It may list bundles that this machine cannot make again, so it is left for its owner to look at."""
    project.define()
    project.run("build").succeeded()
    before = project.contents()
    path = project.models / "model_manifest.json"
    harm(path)
    harmed = project.contents()
    for command in ("verify", "list", "build"):
        project.run(command).failed(5, str(path))
        assert project.contents() == harmed
    path.unlink()
    project.recovers("build")
    assert project.contents() == before
