"""Addresses of uploads that were cut: who may go on with them. What registries do is in tests/registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelbake.errors import RefusedError
from modelbake.oci.blob import of_bytes
from modelbake.oci.known import Known
from modelbake.oci.model import LAYER_TAR, descriptor_of
from modelbake.oci.reference import parse
from modelbake.oci.repository import Repository
from modelbake.oci.transport import Transport
from modelbake.oci.upload import Sessions, _Sent
from modelbake.output import NO_PROGRESS

DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    reference = parse("registry.example/a:1")
    return Repository(reference, Transport(reference, tmp_path), Sessions(tmp_path / "uploads"), Known(tmp_path))


def test_one_upload_at_a_time_goes_on_with_an_address(repository: Repository) -> None:
    sessions = repository.sessions
    with sessions.alone(repository, DIGEST) as first, sessions.alone(repository, DIGEST) as second:
        assert (first, second) == (True, False)
        with sessions.alone(repository, "sha256:" + "1" * 64) as other:
            assert other
    with sessions.alone(repository, DIGEST) as later:
        assert later


def test_who_is_not_alone_neither_takes_nor_changes_the_address(repository: Repository) -> None:
    blob = of_bytes(b"x", descriptor_of(b"x", LAYER_TAR))
    digest = blob.descriptor.digest
    repository.sessions.note(repository, digest, "https://registry.example/1")
    other = _Sent(repository, blob, NO_PROGRESS, alone=False)
    assert other._url is None
    assert other._next("https://registry.example/2", "") == "https://registry.example/2"
    other.forget()
    assert repository.sessions.get(repository, digest) == "https://registry.example/1"
    assert _Sent(repository, blob, NO_PROGRESS, alone=True)._url == "https://registry.example/1"


def test_addresses_are_for_their_owner_s_eyes_alone(repository: Repository, tmp_path: Path) -> None:
    with repository.sessions.alone(repository, DIGEST):
        repository.sessions.note(repository, DIGEST, "https://registry.example/1")
    assert (tmp_path / "uploads").stat().st_mode & 0o777 == 0o700
    assert [path.suffix for path in (tmp_path / "uploads").iterdir()] == [""]


def test_an_address_from_an_unencrypted_time_begins_anew(repository: Repository) -> None:
    blob = of_bytes(b"x", descriptor_of(b"x", LAYER_TAR))
    repository.sessions.note(repository, blob.descriptor.digest, "http://registry.example/1")
    sent = _Sent(repository, blob, NO_PROGRESS, alone=True)
    with pytest.raises(RefusedError):
        repository.send("GET", "http://registry.example/1", (204,))
    assert sent._resumed() is None
