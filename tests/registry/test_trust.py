"""Bundles that are signed, verified and described in a real registry, by modelbake's own commands and by cosign and oras."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelbake.cli.main import run
from modelbake.oci import bom
from modelbake.oci.sign import signature_name
from tests.registry.bundles import NAME, models_folder
from tests.registry.fixture import registry as registry
from tests.registry.server import Registry
from tests.registry.tools import tool
from tests.unit.oci.trust import PASSWORD

Answer = Callable[..., Any]


@pytest.fixture
def reference(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bundle in the registry, with its bill of materials; the working folder has keys `release` and `other`."""
    models_folder(tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "MODELBAKE_ROOT": str(tmp_path),
        "MODELBAKE_CACHE": str(tmp_path / "cache"),
        "MODELBAKE_STORE": str(tmp_path / "store"),
        "DOCKER_CONFIG": str(tmp_path / "docker"),
        "COSIGN_PASSWORD": PASSWORD,
    }.items():
        monkeypatch.setenv(name, value)
    name = f"{registry.host}/models/{NAME}:1"
    assert run(["push", NAME, name, "--bom"]) == 0
    for key in ("release", "other"):
        assert run(["sign", "--generate-key", key]) == 0
    return name


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Answer:
    def ask(*words: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = run([*words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return ask


def cosign(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": os.getcwd(), "COSIGN_PASSWORD": PASSWORD}
    return subprocess.run([tool("cosign"), *words], env=environment, capture_output=True, text=True, check=False)


def verified_by_cosign(key: str, reference: str) -> bool:
    return cosign("verify", "--insecure-ignore-tlog=true", "--key", key, reference).returncode == 0


def test_each_verifies_what_the_other_signed_in_the_registry(reference: str, answer: Answer) -> None:
    code, [signed] = answer("sign", reference, "--key", "release.key")
    assert code == 0
    assert verified_by_cosign("release.pub", reference)
    assert not verified_by_cosign("other.pub", reference)
    pinned = f"{reference.rpartition(':')[0]}@{signed['digest']}"
    done = cosign("sign", "--yes", "--tlog-upload=false", "--key", "other.key", pinned)
    assert done.returncode == 0, done.stderr
    code, [found] = answer("verify", "--key", "other.pub", "--key", "release.pub", reference)
    assert code == 0
    assert [one["identity"] for one in found["signatures"]] == [reference.rpartition(":")[0]] * 2


def test_nothing_is_brought_of_what_the_key_did_not_sign(reference: str, registry: Registry, tmp_path: Path) -> None:
    before = len(registry.log)
    assert run(["pull", reference, "--to", "pulled", "--require-signature", "release.pub"]) == 8
    assert run(["pull", reference, "--require-signature", "release.pub"]) == 8
    assert not (tmp_path / "pulled").exists()
    assert not (tmp_path / "store").exists()
    assert [one.path for one in registry.log[before:] if "/blobs/" in one.path] == []
    assert run(["sign", reference, "--key", "release.key"]) == 0
    assert run(["pull", reference, "--to", "pulled", "--require-signature", "other.pub"]) == 8
    assert not (tmp_path / "pulled").exists()
    assert run(["pull", reference, "--to", "pulled", "--require-signature", "release.pub"]) == 0
    assert (tmp_path / "pulled" / "model_manifest.json").exists()


def test_the_project_s_policy_holds_for_every_pull(reference: str, answer: Answer, tmp_path: Path) -> None:
    host = reference.partition("/")[0]
    rule = f'schema_version = 1\n[[rules]]\npattern = "{host}/models/*"\nkeys = ["release.pub"]\n'
    (tmp_path / "modelbake.policy.toml").write_text(rule)
    assert run(["pull", reference, "--to", "pulled"]) == 8
    assert run(["sign", reference, "--key", "release.key"]) == 0
    code, found = answer("pull", reference, "--to", "pulled")
    assert code == 0
    assert found["signed_by"] == [str(tmp_path / "release.pub")]
    (tmp_path / "modelbake.policy.toml").write_text(rule.replace("/models/", "/other/"))
    assert run(["pull", reference, "--to", "pulled"]) == 8


def test_a_tag_that_was_moved_to_another_bundle_is_refused(reference: str, tmp_path: Path) -> None:
    assert run(["sign", reference, "--key", "release.key"]) == 0
    models_folder(tmp_path / "models", changed=0)
    assert run(["push", NAME, reference]) == 0
    assert run(["pull", reference, "--to", "pulled", "--require-signature", "release.pub"]) == 8
    assert not verified_by_cosign("release.pub", reference)


@pytest.mark.parametrize("how", ["changed", "cut"])
def test_a_signature_that_is_damaged_on_the_server_is_called_damaged(
    reference: str, registry: Registry, answer: Answer, how: str
) -> None:
    before = set(registry.blobs())
    assert run(["sign", reference, "--key", "release.key"]) == 0
    [payload] = [
        registry.blob_file(digest)
        for digest in set(registry.blobs()) - before
        if registry.blob_file(digest).read_bytes().startswith(b'{"critical"')
    ]
    data = payload.read_bytes()
    payload.write_bytes(data[:-9] if how == "cut" else data.replace(b'"optional"', b'"Optional"'))
    code, error = answer("verify", "--key", "release.pub", reference)
    assert code == 5
    assert "signed again" in error["error"]


def test_a_registry_that_is_gone_is_unreachable(reference: str, registry: Registry) -> None:
    registry.stop()
    assert run(["verify", "--key", "release.pub", reference]) == 4
    assert run(["sign", reference, "--key", "release.key"]) == 4


def test_oras_finds_the_bill_of_materials_beside_the_signature(reference: str, tmp_path: Path) -> None:
    entry = models_folder(tmp_path / "models")
    assert run(["sign", reference, "--key", "release.key"]) == 0
    found = json.loads(_oras("discover", "--plain-http", "--format", "json", reference))
    [one] = found["manifests"]
    assert one["artifactType"] == bom.MEDIA_TYPE
    _oras("pull", "--plain-http", "--output", "out", f"{reference.rpartition(':')[0]}@{one['digest']}")
    assert (tmp_path / "out" / f"{entry.name}.cdx.json").read_bytes() == b"".join(bom.blob(entry).chunks())


def test_pushing_the_bill_of_materials_again_changes_nothing(reference: str, registry: Registry) -> None:
    before = registry.blobs()
    assert run(["push", NAME, reference, "--bom"]) == 0
    assert registry.blobs() == before


def test_several_that_sign_at_once_in_a_registry_lose_no_signature(reference: str, answer: Answer) -> None:
    script = "import sys; from modelbake.cli.main import main; main()"
    signers = [
        subprocess.Popen(
            [sys.executable, "-c", script, "sign", reference, "--key", "release.key", "-a", f"number={number}"],
            stdout=subprocess.DEVNULL,
        )
        for number in range(4)
    ]
    assert [one.wait() for one in signers] == [0] * 4
    _, [found] = answer("verify", "--key", "release.pub", reference)
    manifest = json.loads(
        _oras("manifest", "fetch", "--plain-http", f"{reference.rpartition(':')[0]}:{signature_name(found['digest'])}")
    )
    assert len(manifest["layers"]) == 4


def _oras(*words: str) -> str:
    done = subprocess.run([tool("oras"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_policy_that_leads_nowhere_refuses_a_pull(reference: str, answer: Answer, tmp_path: Path) -> None:
    (tmp_path / "modelbake.policy.toml").symlink_to(tmp_path / "gone")
    code, said = answer("pull", reference)
    assert (code, "modelbake.policy.toml" in said["error"]) == (7, True)
    assert not (tmp_path / "store").exists()


def test_a_copy_is_as_trustworthy_as_what_was_copied(
    reference: str, registry: Registry, answer: Answer, tmp_path: Path
) -> None:
    assert run(["sign", reference, "--key", "release.key"]) == 0
    copied = f"{registry.host}/elsewhere/{NAME}:2"
    assert run(["copy", reference, copied]) == 0
    assert verified_by_cosign("release.pub", copied)
    assert run(["pull", copied, "--to", "pulled", "--require-signature", "release.pub"]) == 0
    # Through the store, without the place that it came from.
    assert run(["pull", reference]) == 0
    third = f"{registry.host}/third/{NAME}:3"
    assert run(["copy", f"store:{reference}", third]) == 0
    for name in (copied, f"store:{reference}", third):
        code, [found] = answer("verify", "--key", "release.pub", name)
        assert (code, len(found["signatures"])) == (0, 1)
    for name in (copied, third):
        listed = subprocess.run(
            [tool("oras"), "discover", "--plain-http", "--format", "json", name],
            capture_output=True,
            text=True,
            check=True,
        )
        assert bom.MEDIA_TYPE in listed.stdout
        assert f"{name.rpartition(':')[2]}-modelpack" in answer("tags", name.rpartition(":")[0])[1]
