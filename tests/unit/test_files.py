"""Digests of files, and putting files into place whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from modelbake.errors import IntegrityError, MachineError
from modelbake.files import CHUNK, check_files, disk_errors, file_ref, file_refs, link_or_copy, sha256_of
from modelbake.manifest import FileRef
from tests.unit import tiny


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1])
def test_the_digest_is_sha256_whatever_the_size(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "file").write_bytes(data[:size])
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data[:size]).hexdigest()


def test_references_name_every_file_below_the_root_sorted(tmp_path: Path) -> None:
    for path in ("b", "a/c", "a.x", "é/d"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(path)
    (tmp_path / "empty").mkdir()
    refs = file_refs(tmp_path)
    assert [ref.path for ref in refs] == sorted(["b", "a/c", "a.x", "é/d"])
    assert file_ref(tmp_path, "b") == FileRef("b", hashlib.sha256(b"b").hexdigest(), 1) in refs


def test_the_files_of_a_bundle_are_whole_or_named(tmp_path: Path) -> None:
    entry = tiny.text_bundle(tmp_path)
    check_files(tmp_path, entry)
    for ref in entry.files:
        path = tmp_path / ref.path
        data = path.read_bytes()
        for damaged in (data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
            path.write_bytes(damaged)
            with pytest.raises(
                IntegrityError, match=f"{ref.path} is not the file .*{ref.sha256}.*copy {entry.name} again"
            ):
                check_files(tmp_path, entry)
        path.unlink()
        with pytest.raises(IntegrityError, match=f"{ref.path} is missing .*copy {entry.name} again"):
            check_files(tmp_path, entry)
        path.write_bytes(data)


def test_a_link_has_the_bytes_without_taking_room(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("data")
    link_or_copy(tmp_path / "blob", tmp_path / "new" / "folder" / "file")
    assert (tmp_path / "new" / "folder" / "file").samefile(tmp_path / "blob")


def test_a_file_system_without_links_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "blob").write_text("data")
    link_or_copy(tmp_path / "blob", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "data"
    assert not (tmp_path / "file").samefile(tmp_path / "blob")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_disk_that_cannot_take_it_is_a_fault_of_the_machine(number: int) -> None:
    with pytest.raises(MachineError, match=r"/some/(folder|file)") as caught, disk_errors(Path("/some/folder")):
        raise OSError(number, os.strerror(number), "/some/file")
    assert caught.value.exit_code == 7


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(FileNotFoundError), disk_errors(Path("/some/folder")):
        raise FileNotFoundError(errno.ENOENT, "No such file")
