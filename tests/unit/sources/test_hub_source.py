"""A hub's repository as a source: revisions, tokens, digests, the offline cache."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import hf_hub_download

from modelbake import settings
from modelbake.bundle import HubSource
from modelbake.errors import SourceUnreachableError
from modelbake.patience import TransientError
from modelbake.settings import Settings
from modelbake.sources.base import RemoteFile
from modelbake.sources.hub import Hub as HubClient
from tests.hub import Hub, Repo
from tests.hub.repo import git_object_id
from tests.unit.sources.support import CONFIG, FILE, REPOSITORY, WEIGHTS, Downloads, make_settings, sha256


def client(
    hub: Hub, tmp_path: Path, revision: str = "main", repository: str = REPOSITORY, **fields: object
) -> HubClient:
    return HubClient(
        HubSource(repository, revision), make_settings(tmp_path, hub.endpoint, **fields), (FILE, "config.json")
    )


def test_the_listing_gives_the_sha256_of_large_files_and_gits_id_of_small_ones(source: HubClient, repo: Repo) -> None:
    listing = source.inventory()
    assert listing[FILE] == RemoteFile(len(WEIGHTS), sha256=sha256(WEIGHTS))
    assert listing["config.json"] == RemoteFile(len(CONFIG), git_oid=git_object_id("blob", CONFIG))
    assert listing.keys() == {FILE, "config.json", "1_Pooling/config.json", "empty.txt"}
    assert source.commit == repo.branches["main"]


@pytest.mark.parametrize("revision", ["main", "v1", "commit"])
def test_a_branch_a_tag_and_a_commit_are_found_and_read_at_their_commit(
    hub: Hub, repo: Repo, downloads: Downloads, tmp_path: Path, revision: str
) -> None:
    first = repo.branches["main"]
    repo.tags["v1"] = first
    source = client(hub, tmp_path, first if revision == "commit" else revision)
    assert source.inventory()[FILE].sha256 == sha256(WEIGHTS)
    repo.add_commit({FILE: b"newer"})
    assert downloads.get(source).path.read_bytes() == WEIGHTS
    assert {request.revision for request in hub.log.select(FILE)} == {first}


@pytest.mark.parametrize(
    ("repository", "revision", "words"),
    [
        ("org/absent", "main", "no such repository"),
        (REPOSITORY, "absent", "no revision absent"),
        (REPOSITORY, "0" * 40, "no revision 0000"),
        ("a/b/c", "main", "no listing"),
    ],
)
def test_what_the_hub_does_not_have_is_said_and_not_asked_for_again(
    hub: Hub, repo: Repo, tmp_path: Path, repository: str, revision: str, words: str
) -> None:
    with pytest.raises(SourceUnreachableError, match=words) as caught:
        client(hub, tmp_path, revision, repository).inventory()
    assert repository in str(caught.value)
    assert not isinstance(caught.value, TransientError)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("fault", "transient"),
    [
        ({"kind": "status", "status": 429, "retry_after": 7}, True),
        ({"kind": "status", "status": 500}, True),
        ({"kind": "status", "status": 503}, True),
        ({"kind": "cut", "how": "fin"}, True),
        ({"kind": "status", "status": 418}, False),
        ({"kind": "replace"}, False),
        ({"kind": "replace", "body": b'[1, "two"]'}, False),
    ],
)
def test_a_listing_that_fails_says_whether_asking_again_may_help(
    hub: Hub, repo: Repo, tmp_path: Path, fault: dict[str, Any], transient: bool
) -> None:
    hub.faults.add(endpoint="info", times=None, **fault)
    with pytest.raises(SourceUnreachableError, match=REPOSITORY) as caught:
        client(hub, tmp_path).inventory()
    assert isinstance(caught.value, TransientError) is transient
    assert getattr(caught.value, "retry_after", None) == fault.get("retry_after")


def test_a_hub_that_is_not_there_is_not_asked_again(tmp_path: Path) -> None:
    source = HubClient(HubSource(REPOSITORY, "main"), make_settings(tmp_path), (FILE,))
    with pytest.raises(SourceUnreachableError, match=r"127\.0\.0\.1:9.*ConnectError") as caught:
        source.inventory()
    assert not isinstance(caught.value, TransientError)


@pytest.mark.parametrize("kind", ["gated", "private"])
@pytest.mark.parametrize("given", ["HF_TOKEN", "HF_TOKEN_PATH"])
def test_the_token_opens_a_closed_repository_and_never_reaches_the_cdn(
    hub: Hub, downloads: Downloads, tmp_path: Path, kind: str, given: str
) -> None:
    hub.add_repo(REPOSITORY, {FILE: WEIGHTS, "config.json": CONFIG}, **{kind: "planted-token"})  # type: ignore[arg-type]
    (tmp_path / "token").write_text("planted-token\n")
    value = "planted-token" if given == "HF_TOKEN" else str(tmp_path / "token")
    environ = {given: value, "HF_ENDPOINT": hub.endpoint, "MODELBAKE_ROOT": str(tmp_path), "HOME": str(tmp_path)}
    source = HubClient(HubSource(REPOSITORY, "main"), settings.from_environment(environ), (FILE,))
    assert set(source.inventory()) == {FILE, "config.json"}
    assert downloads.get(source).path.read_bytes() == WEIGHTS
    assert len(hub.log.select(FILE, endpoint="cdn")) == 1
    assert hub.log.leaks == []
    asked = {request.authorization for request in hub.log if request.endpoint in ("info", "resolve")}
    assert asked == {"Bearer planted-token"}


@pytest.mark.parametrize(
    ("kind", "token", "words"),
    [
        ("gated", None, "gated; set HF_TOKEN"),
        ("gated", "another", "gated; set HF_TOKEN"),
        ("private", None, "HF_TOKEN may not read"),
        ("private", "another", "HF_TOKEN may not read"),
    ],
)
def test_a_closed_repository_without_its_token_is_told_from_an_absent_one(
    hub: Hub, tmp_path: Path, kind: str, token: str | None, words: str
) -> None:
    hub.add_repo(REPOSITORY, {FILE: WEIGHTS}, **{kind: "planted-token"})  # type: ignore[arg-type]
    hub.add_token("another")
    with pytest.raises(SourceUnreachableError, match=words) as caught:
        client(hub, tmp_path, hub_token=token).inventory()
    assert "planted" not in str(caught.value)


def test_a_token_of_the_clients_own_home_is_not_sent(
    hub: Hub, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "planted-token")
    client(hub, tmp_path).inventory()
    assert [request.authorization for request in hub.log] == [None]


@pytest.fixture
def offline(hub: Hub, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with HF_HUB_OFFLINE, the client's own cache filled with the weights by the client, and sockets forbidden."""
    for path in (FILE, "1_Pooling/config.json"):
        hf_hub_download(REPOSITORY, path, endpoint=hub.endpoint, token=False)

    def no_socket(*arguments: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", no_socket)
    monkeypatch.setattr(socket, "getaddrinfo", no_socket)
    environ = {
        "HF_HUB_OFFLINE": "1",
        "HF_ENDPOINT": hub.endpoint,
        "MODELBAKE_ROOT": str(tmp_path),
        "HOME": str(tmp_path),
    }
    return settings.from_environment(environ)


@pytest.mark.parametrize("revision", ["main", "commit"])
def test_offline_the_clients_own_cache_is_read_and_no_socket_opened(
    repo: Repo, offline: Settings, downloads: Downloads, revision: str
) -> None:
    at = repo.branches["main"] if revision == "commit" else revision
    source = HubClient(HubSource(REPOSITORY, at), offline, (FILE, "1_Pooling/config.json", "config.json"))
    assert source.inventory() == {
        FILE: RemoteFile(len(WEIGHTS), sha256=sha256(WEIGHTS)),
        "1_Pooling/config.json": RemoteFile(2, git_oid=git_object_id("blob", b"{}")),
    }
    assert source.commit == repo.branches["main"]
    assert downloads.get(source).path.read_bytes() == WEIGHTS
    with pytest.raises(SourceUnreachableError, match=r"config\.json.*HF_HUB_OFFLINE"), source.open("config.json"):
        pass
