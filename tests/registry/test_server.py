"""The registries of the tests are what they say: the real one, its storage, its log, its kinds of authentication, and its end."""

from __future__ import annotations

import base64
import json
import ssl
from pathlib import Path

import httpx2
import pytest

from tests.registry.bundles import models_folder
from tests.registry.fixture import registry as registry
from tests.registry.keys import Pair, make_pair
from tests.registry.raw import Repository, sha256
from tests.registry.server import PASSWORD, USER, Registry
from tests.registry.tokens import Asked, TokenServer

DATA = bytes(range(251)) * 400  # no two neighbours equal


def test_what_is_put_there_comes_back_and_stands_in_its_file(registry: Registry) -> None:
    repository = Repository(registry.url)
    layer = repository.put_blob(DATA)
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": layer,
        "layers": [layer],
    }
    digest = repository.put_manifest(manifest, "1")
    assert repository.blob(layer["digest"]).content == DATA
    assert repository.manifest("1").json() == manifest
    assert repository.manifest("1").headers["Docker-Content-Digest"] == digest
    assert registry.blob_file(layer["digest"]).read_bytes() == DATA
    assert registry.blobs() == {layer["digest"]: len(DATA), digest: len(json.dumps(manifest))}
    assert repository.client.delete(f"manifests/{digest}").status_code == 202


def test_the_log_has_every_request_with_the_bytes_of_its_answer(registry: Registry) -> None:
    repository = Repository(registry.url)
    digest = repository.put_blob(DATA)["digest"]
    repository.blob(digest, Range="bytes=100-299")
    repository.blob(digest)
    path = f"/v2/a/b/blobs/{digest}"
    # The client may have an answer before its line is written, but not before that of an earlier request on its connection.
    repository.has_blob(digest)
    seen = [(one.method, one.status, one.sent) for one in registry.log if one.path == path]
    assert seen[:3] == [("HEAD", 404, seen[0][2]), ("GET", 206, 200), ("GET", 200, len(DATA))]
    assert [one.method for one in registry.log if one.path == "/v2/a/b/blobs/uploads/"] == ["POST"]


def test_what_is_damaged_on_the_disk_is_served_damaged(registry: Registry) -> None:
    repository = Repository(registry.url)
    digest = repository.put_blob(DATA)["digest"]
    damaged = b"x" + DATA[1:]
    registry.blob_file(digest).write_bytes(damaged)
    assert repository.blob(digest).content == damaged
    registry.blob_file(digest).write_bytes(damaged[:100])
    assert repository.blob(digest).content == damaged[:100]


def test_it_is_killed_and_comes_back_on_the_same_port_with_the_same_blobs(registry: Registry) -> None:
    repository = Repository(registry.url)
    digest = repository.put_blob(DATA)["digest"]
    registry.kill()
    with pytest.raises(httpx2.TransportError):
        repository.has_blob(digest)
    registry.start()
    assert repository.blob(digest).content == DATA
    registry.restart()
    assert repository.has_blob(digest)
    assert not repository.has_blob(sha256(b""))


def test_an_upload_that_is_under_way_when_it_is_killed_comes_to_nothing(registry: Registry) -> None:
    repository = Repository(registry.url)
    begun = repository.client.post("blobs/uploads/").raise_for_status()
    sent = repository.client.patch(begun.headers["Location"], content=DATA[:1000]).raise_for_status()
    assert sent.headers["Range"] == "0-999"
    assert len(registry.uploads()) == 1
    registry.restart()
    assert registry.blobs() == {}
    assert len(registry.uploads()) == 1


def test_mounting_takes_a_blob_from_another_repository(registry: Registry) -> None:
    digest = Repository(registry.url, "first").put_blob(DATA)["digest"]
    second = Repository(registry.url, "second")
    assert not second.has_blob(digest)
    assert second.mount(digest, "first")
    assert second.has_blob(digest)
    assert not second.mount(sha256(b"none"), "first")


def test_a_registry_that_does_not_start_says_so(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(OSError, match="already in use"):
        Registry(tmp_path / "other", port=registry.port).start()
    tokens = ("http://127.0.0.1/token", Pair(tmp_path / "none.key", tmp_path / "none.pem"))
    with pytest.raises(RuntimeError, match=r"none\.pem"):
        Registry(tmp_path / "third", tokens=tokens).start()


def test_names_and_passwords(tmp_path: Path) -> None:
    with Registry(tmp_path, htpasswd=True) as registry:
        answer = Repository(registry.url).client.get("tags/list")
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        assert Repository(registry.url, auth=(USER, "other")).client.get("tags/list").status_code == 401
        allowed = Repository(registry.url, auth=(USER, PASSWORD))
        assert allowed.has_blob(allowed.put_blob(DATA)["digest"])


def bearer(server: TokenServer, scope: str, **options: object) -> dict[str, str]:
    answer = httpx2.get(server.realm, params={"scope": scope, "service": "tests"}, trust_env=False, **options)  # type: ignore[arg-type]
    return {"Authorization": f"Bearer {answer.raise_for_status().json()[server.name]}"}


def test_tokens(tmp_path: Path) -> None:
    with TokenServer(tmp_path / "keys") as server, Registry(tmp_path, tokens=(server.realm, server.pair)) as registry:
        answer = Repository(registry.url).client.get("blobs/" + sha256(DATA))
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == (
            f'Bearer realm="{server.realm}",service="tests",scope="repository:a/b:pull"'
        )
        push = "repository:a/b:pull,push"
        anybody = Repository(registry.url, headers=bearer(server, push))
        assert anybody.client.post("blobs/uploads/").status_code == 401
        baker = Repository(registry.url, headers=bearer(server, push, auth=(USER, PASSWORD)))
        digest = baker.put_blob(DATA)["digest"]
        assert anybody.has_blob(digest)
        elsewhere = Repository(registry.url, "c/d", headers=bearer(server, push, auth=(USER, PASSWORD)))
        assert elsewhere.client.get("tags/list").status_code == 401
        assert server.asked[0] == Asked((push,), None, granted=True)
        refused = httpx2.get(server.realm, auth=(USER, "other"), trust_env=False)
        assert refused.status_code == 401
        assert server.asked[-1] == Asked((), USER, granted=False)
        form = {"grant_type": "password", "username": USER, "password": PASSWORD, "scope": push, "service": "tests"}
        granted = httpx2.post(server.realm, data=form, trust_env=False).json()[server.name]
        assert Repository(registry.url, headers={"Authorization": f"Bearer {granted}"}).has_blob(digest)


def test_a_token_that_has_run_out_or_was_changed_is_refused(tmp_path: Path) -> None:
    # The registry's clock may be wrong by a minute for it.
    with (
        TokenServer(tmp_path / "keys", lifetime=-120) as server,
        Registry(tmp_path, tokens=(server.realm, server.pair)) as registry,
    ):
        scope = "repository:a/b:pull"
        assert Repository(registry.url, headers=bearer(server, scope)).client.get("tags/list").status_code == 401
        server.lifetime = 300
        good = bearer(server, scope)
        assert Repository(registry.url, headers=good).client.get("tags/list").status_code == 404
        header, claims, signature = good["Authorization"].split(".")
        padded = claims + "=" * (-len(claims) % 4)
        forged = base64.urlsafe_b64encode(base64.urlsafe_b64decode(padded).replace(b"a/b", b"c/d")).decode().rstrip("=")
        for wrong in (f"{header}.{forged}.{signature}", f"{header}.{claims}.AAAA"):
            client = Repository(registry.url, "c/d", headers={"Authorization": wrong}).client
            assert client.get("tags/list").status_code == 401


def test_tls(tmp_path: Path) -> None:
    pair = make_pair(tmp_path / "keys", "registry")
    with Registry(tmp_path, tls=pair) as registry:
        with pytest.raises(httpx2.ConnectError, match="certificate"):
            Repository(registry.url).has_blob(sha256(DATA))
        trusting = Repository(registry.url, verify=ssl.create_default_context(cafile=str(pair.certificate)))
        assert trusting.has_blob(trusting.put_blob(DATA)["digest"])


def test_random_bundles_are_the_same_each_time_and_differ_where_they_are_asked_to(tmp_path: Path) -> None:
    one, same = (models_folder(tmp_path / name) for name in ("one", "same"))
    assert one == same
    other = models_folder(tmp_path / "other", changed=2)
    differing = [a.path for a, b in zip(one.files, other.files, strict=True) if a != b]
    assert differing == [one.artifacts[2].path]
    assert models_folder(tmp_path / "large", sizes=(3 << 20, 5), seed=2).files[1].size == 3 << 20
