"""The real huggingface_hub client against the local hub: listings, downloads, revisions, access, redirects."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from tests.hub import Hub, HubProcess
from tests.hub.conftest import WEIGHTS
from tests.hub.repo import CHUNK, lfs_pointer, read


def download(
    hub: Hub, file: str, repo: str = "org/model", *, token: str | bool = False, revision: str = "main"
) -> Path:
    return Path(hf_hub_download(repo, file, endpoint=hub.endpoint, token=token, revision=revision))


def snapshot(hub: Hub, **options: Any) -> dict[str, bytes]:
    root = Path(snapshot_download("org/model", endpoint=hub.endpoint, **({"token": False} | options)))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_blob_tree_and_commit_ids_are_those_of_git(hub: Hub) -> None:
    files = {"config.json": b'{"dim": 2}', "1_Pooling/config.json": b"{}", "a/b/c.txt": b"deep", "a.txt": b"x"}
    repo = hub.add_repo("org/git", files)
    commit = repo.resolve("main")
    assert commit is not None
    # from git hash-object, write-tree and commit-tree
    assert commit.id == "d96be0c48f418851ab0af1fd0f61671479bd70f1"
    assert commit.trees["a"] == "f41b5cf2ffe2552c6a96fe4069768ef8d2552a28"
    assert commit.trees[""] == "4833a22071ce87d811d9d0ac08f24be218c165c3"
    assert repo.file("a/b/c.txt").blob_id == "d1f857b3cc128d202d3547d90541d78e7761853e"


def test_pointer_of_the_size_of_minilms_weights_has_133_bytes() -> None:
    assert len(lfs_pointer("0" * 64, 90868376)) == 133


def test_model_info_gives_sizes_and_lfs_facts(hub: Hub, api: HfApi, model: str) -> None:
    info = api.model_info(model, files_metadata=True)
    assert info.sha == hub.repos[model].branches["main"]
    assert info.siblings is not None
    by_name = {sibling.rfilename: sibling for sibling in info.siblings}
    weights = by_name["model.safetensors"]
    assert weights.lfs is not None
    assert (weights.size, weights.lfs.size, weights.lfs.sha256) == (10040, 10040, hashlib.sha256(WEIGHTS).hexdigest())
    assert (by_name["1_Pooling/config.json"].blob_id, by_name["config.json"].lfs) == (
        "9e26dfeeb6e641a33dae4961196235bdb965b21b",
        None,
    )
    assert by_name["empty.txt"].size == 0


def test_list_repo_files_gives_every_path(api: HfApi, model: str) -> None:
    assert sorted(api.list_repo_files(model)) == [
        "1_Pooling/config.json", "config.json", "empty.txt", "model.safetensors",
    ]  # fmt: skip


def test_tree_is_given_in_pages_and_the_client_follows_them() -> None:
    with Hub(page_size=3) as hub:
        hub.add_repo("org/many", {f"part-{number}.json": b"{}" for number in range(8)})
        entries = list(HfApi(endpoint=hub.endpoint, token=False).list_repo_tree("org/many", recursive=True))
        assert [entry.path for entry in entries] == [f"part-{number}.json" for number in range(8)]
        assert len(hub.log.select(endpoint="tree")) == 3


def test_tree_of_a_folder_lists_that_folder_alone(api: HfApi, model: str) -> None:
    assert [entry.path for entry in api.list_repo_tree(model, "1_Pooling")] == ["1_Pooling/config.json"]
    assert "1_Pooling/config.json" not in [entry.path for entry in api.list_repo_tree(model)]
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(model, "2_Normalize"))


def test_expanded_tree_has_last_commit_and_scan(hub: Hub, api: HfApi, model: str) -> None:
    (entry,) = api.list_repo_tree(model, "1_Pooling", expand=True)
    assert entry.last_commit is not None
    assert entry.last_commit.oid == hub.repos[model].branches["main"]


def test_paths_info_gives_what_exists_and_leaves_out_the_rest(api: HfApi, model: str) -> None:
    infos = api.get_paths_info(model, ["model.safetensors", "1_Pooling", "missing.bin"])
    assert [info.path for info in infos] == ["model.safetensors", "1_Pooling"]
    assert isinstance(infos[0], RepoFile)
    assert infos[0].lfs is not None
    assert infos[0].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()


def test_refs_list_branches_and_tags(hub: Hub, api: HfApi, model: str) -> None:
    repo = hub.repos[model]
    repo.tags["v1"] = repo.branches["main"]
    refs = api.list_repo_refs(model)
    assert [(ref.name, ref.ref) for ref in refs.branches] == [("main", "refs/heads/main")]
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1", repo.branches["main"])]


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "1_Pooling/config.json", "empty.txt"])
def test_downloaded_file_has_the_same_bytes_under_its_etag(hub: Hub, model: str, file: str) -> None:
    path = download(hub, file)
    assert path.read_bytes() == hub.repos[model].file(file).content()
    assert path.resolve().name == hub.repos[model].file(file).etag
    assert path.parent.parts[-1 - file.count("/")] == hub.repos[model].branches["main"]


def test_second_download_transfers_nothing(hub: Hub, model: str) -> None:
    download(hub, "model.safetensors")
    hub.log.clear()
    download(hub, "model.safetensors")
    assert [request.method for request in hub.log] == ["HEAD"]
    assert hub.log.sent() == 0


def test_small_files_come_over_the_relative_redirect_of_the_hub(hub: Hub, model: str) -> None:
    download(hub, "config.json")
    assert [(request.method, request.endpoint, request.status) for request in hub.log] == [
        ("HEAD", "resolve", 307), ("HEAD", "resolve-cache", 200), ("GET", "resolve-cache", 200),
    ]  # fmt: skip


def test_snapshot_has_all_files_by_branch_tag_and_commit(hub: Hub, model: str, tmp_path: Path) -> None:
    repo = hub.repos[model]
    first = repo.branches["main"]
    repo.tags["v1"] = first
    repo.add_commit({"config.json": b'{"dim": 3}'}, branch="dev/next")
    assert snapshot(hub)["model.safetensors"] == WEIGHTS
    assert snapshot(hub, revision="dev/next") == {"config.json": b'{"dim": 3}'}
    for revision in ("v1", first, "refs/heads/main"):
        assert len(snapshot(hub, revision=revision, cache_dir=tmp_path / revision.replace("/", "-"))) == 4


def test_branch_moves_with_a_new_commit_and_the_old_one_stays(hub: Hub, api: HfApi, model: str) -> None:
    repo = hub.repos[model]
    first = repo.branches["main"]
    second = repo.add_commit({"config.json": b"new"}, commit="ab" * 20)
    assert second == api.model_info(model).sha == "ab" * 20
    assert download(hub, "config.json").read_bytes() == b"new"
    assert download(hub, "config.json", revision=first).read_bytes() == b'{"dim": 2}'


def test_file_on_disk_is_streamed_and_large_files_are_lfs_whatever_their_name(hub: Hub, tmp_path: Path) -> None:
    big = tmp_path / "vocabulary.txt"
    big.write_bytes(WEIGHTS * 120)
    repo = hub.add_repo("org/big", {"vocabulary.txt": big}, lfs_threshold=1_000_000)
    assert repo.file("vocabulary.txt").lfs
    assert max(len(piece) for piece in read(big, 0, big.stat().st_size)) <= CHUNK
    assert download(hub, "vocabulary.txt", "org/big").read_bytes() == WEIGHTS * 120


def test_folder_becomes_a_repository(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"graph")
    assert list(hub.add_repo("org/folder", tmp_path).resolve("main").files) == ["onnx/model.onnx"]  # type: ignore[union-attr]
    assert download(hub, "onnx/model.onnx", "org/folder").read_bytes() == b"graph"


def test_refs_to_an_unknown_commit_and_malformed_commits_are_refused(hub: Hub) -> None:
    with pytest.raises(ValueError, match="other than"):
        hub.add_repo("org/bad", {}, refs={"main": "0" * 40})
    with pytest.raises(ValueError, match="40 lower-case hex digits"):
        hub.add_repo("org/bad", {}, commit="main")


def test_unknown_repository_revision_and_file_raise_the_clients_own_errors(hub: Hub, api: HfApi, model: str) -> None:
    hub.add_token("hf_known")
    for token, status in ((False, 401), ("hf_known", 404)):
        with pytest.raises(RepositoryNotFoundError) as missing:
            download(hub, "config.json", "org/none", token=token)
        assert missing.value.response.status_code == status
    with pytest.raises(RevisionNotFoundError, match="Invalid rev id: nope"):
        api.model_info(model, revision="nope")
    with pytest.raises(RevisionNotFoundError):
        download(hub, "config.json", revision="1" * 40)
    with pytest.raises(RemoteEntryNotFoundError, match="Entry Not Found") as entry:
        download(hub, "missing.bin")
    assert entry.value.response.headers["X-Repo-Commit"] == hub.repos[model].branches["main"]
    assert (api.repo_exists("org/none"), api.revision_exists(model, "nope")) == (False, False)
    assert (api.file_exists(model, "missing.bin"), api.file_exists(model, "config.json")) == (False, True)


def test_gated_repository_lists_for_all_and_downloads_for_its_token_alone(hub: Hub, api: HfApi) -> None:
    hub.add_repo("org/model", {"model.bin": b"secret"}, gated="hf_member")
    hub.add_token("hf_other")
    assert api.model_info("org/model").gated == "manual"
    assert api.list_repo_files("org/model") == ["model.bin"]
    for token, status, words in ((False, 401, "Please log in"), ("hf_other", 403, "not in the authorized list")):
        with pytest.raises(GatedRepoError, match=words) as gate:
            download(hub, "model.bin", token=token)
        assert gate.value.response.status_code == status
    with pytest.raises(GatedRepoError):
        snapshot(hub)
    with pytest.raises(GatedRepoError):
        api.auth_check("org/model")
    api.auth_check("org/model", token="hf_member")
    assert snapshot(hub, token="hf_member") == {"model.bin": b"secret"}


def test_private_repository_exists_for_its_token_alone(hub: Hub, api: HfApi) -> None:
    hub.add_repo("org/model", {"config.json": b"{}"}, private="hf_owner")
    hub.add_token("hf_other")
    for token in (False, "hf_other"):
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("org/model", token=token)
    assert api.model_info("org/model", token="hf_owner").private
    assert snapshot(hub, token="hf_owner") == {"config.json": b"{}"}


def test_unknown_token_is_refused_even_for_a_public_repository(hub: Hub, api: HfApi, model: str) -> None:
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization header") as refused:
        api.model_info(model, token="hf_expired")
    assert not isinstance(refused.value, RepositoryNotFoundError)
    assert refused.value.response.status_code == 401


def test_whoami_names_the_tokens_owner(hub: Hub, api: HfApi) -> None:
    hub.add_token("hf_mine", "ada")
    assert api.whoami(token="hf_mine")["name"] == "ada"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token="hf_unknown")


@pytest.mark.parametrize("old", ["org/old-model", "ORG/Model"])
def test_renamed_and_differently_cased_names_redirect(hub: Hub, api: HfApi, model: str, old: str) -> None:
    hub.rename("org/old-model", model)
    assert api.model_info(old).id == model
    assert [info.path for info in api.get_paths_info(old, ["config.json"])] == ["config.json"]
    assert download(hub, "config.json", old).read_bytes() == b'{"dim": 2}'
    assert download(hub, "model.safetensors", old).read_bytes() == WEIGHTS
    assert {request.status for request in hub.log if old in request.path} == {307}


def test_rename_moves_a_repository(hub: Hub, api: HfApi) -> None:
    hub.add_repo("cross-encoder/ms-marco-MiniLM-L-6-v2", {"config.json": b"{}"})
    hub.rename("cross-encoder/ms-marco-MiniLM-L-6-v2", "cross-encoder/ms-marco-MiniLM-L6-v2")
    assert api.model_info("cross-encoder/ms-marco-MiniLM-L-6-v2").id == "cross-encoder/ms-marco-MiniLM-L6-v2"


def test_repository_without_an_organisation_works(hub: Hub, api: HfApi) -> None:
    hub.add_repo("gpt2", {"model.safetensors": WEIGHTS})
    assert api.list_repo_files("gpt2") == ["model.safetensors"]
    assert download(hub, "model.safetensors", "gpt2").read_bytes() == WEIGHTS


def test_the_real_client_keeps_its_token_from_the_cdn(hub: Hub) -> None:
    hub.add_repo("org/model", {"model.bin": WEIGHTS}, gated="hf_member")
    download(hub, "model.bin", token="hf_member")
    assert [request.authorization for request in hub.log.select(endpoint="resolve")] == ["Bearer hf_member"]
    assert len(hub.log.select(endpoint="cdn")) == 1
    assert hub.log.leaks == []


def test_a_token_sent_to_the_cdn_is_recorded(hub: Hub, model: str) -> None:
    location = httpx2.head(f"{hub.endpoint}/{model}/resolve/main/model.safetensors").headers["Location"]
    httpx2.get(location, headers={"Authorization": "Bearer hf_leaked"})
    assert [request.authorization for request in hub.log.leaks] == ["Bearer hf_leaked"]


def test_cdn_gives_nothing_without_a_signature(hub: Hub, model: str) -> None:
    location = httpx2.head(f"{hub.endpoint}/{model}/resolve/main/model.safetensors").headers["Location"]
    assert httpx2.get(location).content == WEIGHTS
    assert httpx2.get(location.partition("?")[0]).status_code == 403
    assert httpx2.get(f"http://127.0.0.1:{hub.cdn_port}/").status_code == 403


def test_lfs_head_carries_commit_and_linked_facts(hub: Hub, model: str) -> None:
    headers = httpx2.head(f"{hub.endpoint}/{model}/resolve/main/model.safetensors").headers
    assert headers["X-Repo-Commit"] == hub.repos[model].branches["main"]
    assert headers["X-Linked-ETag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    assert headers["X-Linked-Size"] == "10040"


@pytest.mark.parametrize(
    ("asked", "status", "content_range", "body"),
    [
        ("bytes=0-9", 206, "bytes 0-9/10040", WEIGHTS[:10]),
        ("bytes=10000-", 206, "bytes 10000-10039/10040", WEIGHTS[10000:]),
        ("bytes=-5", 206, "bytes 10035-10039/10040", WEIGHTS[-5:]),
        ("bytes=-99999", 206, "bytes 0-10039/10040", WEIGHTS),
        ("bytes=10039-20000", 206, "bytes 10039-10039/10040", WEIGHTS[-1:]),
        ("bytes=10040-", 416, "bytes */10040", b""),
        ("bytes=5-4", 200, None, WEIGHTS),
        ("bytes=-0", 416, "bytes */10040", b""),
        ("bytes=0-1,5-6", 200, None, WEIGHTS),
        ("bytes=-", 200, None, WEIGHTS),
        ("lines=1-2", 200, None, WEIGHTS),
    ],
)
def test_ranges(hub: Hub, model: str, asked: str, status: int, content_range: str | None, body: bytes) -> None:
    url = f"{hub.endpoint}/{model}/resolve/main/model.safetensors"
    answer = httpx2.get(url, headers={"Range": asked}, follow_redirects=True)
    assert (answer.status_code, answer.headers.get("Content-Range"), answer.content) == (status, content_range, body)
    (request,) = hub.log.select("model.safetensors", endpoint="cdn")
    assert (request.range, request.status, request.sent) == (asked, status, len(body))


def test_if_range_with_another_etag_gets_the_whole_file(hub: Hub, model: str) -> None:
    url = f"{hub.endpoint}/{model}/resolve/main/config.json"
    etag = httpx2.head(url, follow_redirects=True).headers["ETag"]
    for condition, status in ((etag, 206), ('"other"', 200)):
        headers = {"Range": "bytes=2-", "If-Range": condition}
        assert httpx2.get(url, headers=headers, follow_redirects=True).status_code == status


def test_if_none_match_with_the_same_etag_gets_304(hub: Hub, model: str) -> None:
    url = f"{hub.endpoint}/{model}/resolve/main/config.json"
    etag = httpx2.head(url, follow_redirects=True).headers["ETag"]
    answer = httpx2.get(url, headers={"If-None-Match": etag}, follow_redirects=True)
    assert (answer.status_code, answer.content) == (304, b"")


def test_text_is_compressed_without_a_length_and_arrives_whole(hub: Hub) -> None:
    text = b'{"token": 1}' * 500
    hub.add_repo("org/model", {"vocab.json": text})
    assert download(hub, "vocab.json").read_bytes() == text
    (request,) = hub.log.select("vocab.json", method="GET")
    assert 0 < request.sent < len(text)
    url = f"{hub.endpoint}/org/model/resolve/main/vocab.json"
    plain = httpx2.get(url, headers={"Accept-Encoding": "identity"}, follow_redirects=True)
    assert (plain.headers["Content-Length"], plain.content) == (str(len(text)), text)


def test_many_files_in_parallel_arrive_whole(hub: Hub) -> None:
    files = {f"shard-{number}.bin": bytes([number]) * 5000 for number in range(24)}
    hub.add_repo("org/model", files)
    assert snapshot(hub, max_workers=8) == files


def test_cdn_is_on_the_host_name_that_the_client_used() -> None:
    with Hub("0.0.0.0") as hub:
        hub.add_repo("org/model", {"model.bin": WEIGHTS})
        path = hf_hub_download("org/model", "model.bin", endpoint=hub.endpoint_at("127.0.0.2"), token=False)
        assert Path(path).read_bytes() == WEIGHTS
        (request,) = hub.log.select(endpoint="cdn")
        assert request.headers["host"] == f"127.0.0.2:{hub.cdn_port}"
        assert hub.endpoint == f"http://127.0.0.1:{hub.port}"


def test_error_of_a_handler_fails_the_test(tmp_path: Path) -> None:
    (tmp_path / "gone.bin").write_bytes(b"here")

    def ask() -> None:
        with Hub() as hub:
            hub.add_repo("org/model", tmp_path)
            (tmp_path / "gone.bin").unlink()
            with pytest.raises(httpx2.RemoteProtocolError):
                httpx2.get(f"{hub.endpoint}/org/model/resolve/main/gone.bin", follow_redirects=True)

    with pytest.raises(FileNotFoundError):
        ask()


def test_process_serves_a_folder_to_a_client_that_knows_hf_endpoint_alone(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "org" / "model"
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(WEIGHTS)
    code = "import huggingface_hub as h; print(h.snapshot_download('org/model'))"
    fault = "match=model.bin,kind=status,status=429,method=GET,retry_after=0"
    with HubProcess(tmp_path / "hub", "--gated", "hf_t", "--fault", fault, log=tmp_path / "log") as running:
        with Hub() as other:
            environ = other.environ(tmp_path / "home", token="hf_t") | {"HF_ENDPOINT": running.endpoint}
        child = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert (Path(child.stdout.strip()) / "model.bin").read_bytes() == WEIGHTS
    assert Path(child.stdout.strip()).name == running.commits["org/model"]
    assert [request.status for request in running.log.select("model.bin", method="GET")] == [429, 200]


def test_process_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="name the repository with --repo"):
        HubProcess(tmp_path)


def test_killed_process_leaves_nobody_listening(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    with HubProcess(tmp_path, "--repo", "org/model", "--commit", "ab" * 20) as running:
        assert running.commits == {"org/model": "ab" * 20}
        assert httpx2.get(f"{running.endpoint}/api/models/org/model").json()["sha"] == "ab" * 20
        running.kill()
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(running.endpoint)
