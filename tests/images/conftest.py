"""The engine and the baked images, for every test here; without them all fail with what to do."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelbake.catalog import Catalog
from modelbake.manifest import BundleEntry, Manifest, decode
from tests.images import baking
from tests.images.engine import ROOT, docker, engine_environ, image, must, python, weights_of
from tests.images.oci import Archive

HERE = Path(__file__).parent
# Those that `make bake` bakes.
CATALOG = Catalog(ROOT / "bundles")
BUNDLES = tuple(name for name in CATALOG.names() if CATALOG.get(name).default)
IMAGES = ("runtime", "search", *(f"bundle-{name}" for name in BUNDLES))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "images: needs the Docker engine and the images that `make bake` makes")
    config.addinivalue_line("markers", "builds: runs image builds, for tens of seconds")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.images)


@pytest.fixture(scope="session", autouse=True)
def engine() -> Iterator[None]:
    """The docker client leads to the engine, and the images are there."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            environ = engine_environ()
        except RuntimeError as error:
            pytest.fail(f"The images' tests need a Docker engine. {error}", pytrace=False)
        for name, value in environ.items():
            patch.setenv(name, value)
        missing = [image(name) for name in IMAGES if docker("image", "inspect", image(name)).code != 0]
        if missing:
            pytest.fail(f"Not baked: {', '.join(missing)}. Run `make bake` first.", pytrace=False)
        yield


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder for big files that is gone when the tests are over; pytest's own would stay."""
    with tempfile.TemporaryDirectory(prefix="modelbake-images-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """The manifest inside the search image."""
    done = python("search", "print(open('/models/model_manifest.json').read())")
    assert done.code == 0, done.stderr
    return decode(done.stdout.encode(), "the manifest of search")


@pytest.fixture(scope="session")
def sources(folder: Path, manifest: Manifest) -> Callable[[str], Path]:
    """The folder of the very weights that a bundle in search was made from, brought or drawn again by this process."""
    brought: dict[str, Path] = {}

    def bring(name: str) -> Path:
        if name not in brought:
            brought[name] = fetch(manifest.bundle(name), folder / "sources")
        return brought[name]

    return bring


def fetch(entry: BundleEntry, to: Path) -> Path:
    """Fetch with the weights that the image has, and compare what came with the manifest."""
    weights = "sample" if weights_of("search")[entry.name] == "sample" else "pretrained"
    command = [str(Path(sys.executable).with_name("modelbake")), "fetch", entry.name, "--weights", weights]
    done = subprocess.run([*command, "--to", str(to)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files = to / entry.name / "files"
    for ref in entry.source.files:
        found = hashlib.sha256((files / ref.path).read_bytes()).hexdigest()
        assert found == ref.sha256, f"{ref.path} is not the file that the image was made from"
    return files


@pytest.fixture(scope="session")
def archives(folder: Path) -> Iterator[dict[str, Archive]]:
    """OCI archives with plain layers of search and all bundles, exported in one bake that finds everything cached."""
    names = ["search", *(f"bundle-{name}" for name in BUNDLES)]
    baking.bake({name: baking.to_archive(folder / f"{name}.tar") for name in names})
    opened = {name: Archive(folder / f"{name}.tar") for name in names}
    yield opened
    for archive in opened.values():
        archive.__exit__(None, None, None)


@pytest.fixture
def container() -> Iterator[Callable[..., str]]:
    """Start containers in the background, by the arguments of `docker run`; they are gone after the test."""
    started: list[str] = []

    def start(*arguments: str) -> str:
        started.append(must("run", "--detach", *arguments))
        return started[-1]

    yield start
    if started:
        must("rm", "--force", *started)
