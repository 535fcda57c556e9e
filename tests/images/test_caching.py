"""What a change rebuilds: papers nothing, one bundle's definition that bundle alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelbake.bake import buildx
from tests.images import baking
from tests.images.conftest import BUNDLES

CHANGED = "boundary-regressor"
TARGETS = ("runtime", "search", *(f"bundle-{name}" for name in BUNDLES))


@pytest.fixture(scope="module")
def project(folder: Path) -> Path:
    """A copy of the project, baked once, so that all that follows is due to a change."""
    copy = baking.copy_project(folder / "project")
    bake(copy)
    return copy


def bake(root: Path) -> list[str]:
    """The steps that were run and not taken from the cache."""
    return baking.steps_run(events(root))


def events(root: Path) -> buildx.Events:
    return baking.bake(dict.fromkeys(TARGETS, baking.CACHE_ONLY), root=root)


@pytest.mark.builds
def test_nothing_is_rebuilt_when_nothing_changed(project: Path) -> None:
    assert bake(project) == []


@pytest.mark.builds
def test_other_time_stamps_rebuild_nothing(project: Path) -> None:
    """As after a fresh clone."""
    for path in project.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))

    assert bake(project) == []


@pytest.mark.builds
@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/engine.md",
        "docs/new-page.md",
        "tests/unit/test_new.py",
        "images/runtime/README.md",
        "models/regressor/README.md",
        "models/onnx/left-over.onnx",
        "src/modelbake/__pycache__/errors.cpython-311.pyc",
        "scripts/engine.sh",
        "docker-bake.hcl",
        ".git/HEAD",
    ],
)
def test_what_no_image_needs_rebuilds_nothing(project: Path, name: str) -> None:
    (project / name).parent.mkdir(parents=True, exist_ok=True)
    with open(project / name, "a", encoding="utf-8") as file:
        file.write("\n# touched\n")

    assert bake(project) == []


@pytest.mark.builds
def test_one_bundles_definition_rebuilds_that_bundle_alone(project: Path) -> None:
    definition = project / "bundles" / CHANGED / "bundle.toml"
    # A comment of this very run, lest an earlier run's steps be in the cache.
    definition.write_text(f"{definition.read_text()}\n# {os.urandom(8).hex()}\n")

    ran = bake(project)

    own = [step for step in ran if step.startswith(f"[trees-{CHANGED} ")]
    assert [word for word in (" fetch ", "_docker.sh build", "_docker.sh verify") if word not in " ".join(own)] == []
    rest = [
        step
        for step in ran
        if step not in own and not step.startswith((f"[bundle-{CHANGED} ", "[trees-search ", "[search "))
    ]
    assert rest == []


def edit(path: Path) -> None:
    """Another code, by a comment of this very run."""
    path.write_text(f"{path.read_text()}\n# {os.urandom(8).hex()}\n")


def exported(found: buildx.Events) -> set[str]:
    """The bundles that were really exported: not taken from BuildKit's cache, nor from the step cache in its mounts."""
    lines = [line for vertex in found.vertexes.values() for line in vertex.log]
    return {line.partition(":")[0] for line in lines if ": exporting " in line}


@pytest.mark.builds
def test_the_code_of_one_family_exports_that_family_alone_anew(project: Path) -> None:
    # The first change is no exporter's. It has every bundle's steps run, so that their results are in the step cache for sure.
    edit(project / "src" / "modelbake" / "cli" / "list.py")
    bake(project)
    edit(project / "src" / "modelbake" / "cli" / "list.py")
    assert exported(events(project)) == set()
    edit(project / "src" / "modelbake" / "export" / "boundary_regressor" / "model.py")
    assert exported(events(project)) == {CHANGED}
