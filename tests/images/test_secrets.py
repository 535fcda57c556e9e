"""Tokens, pip's configuration and certificates serve a build and are nowhere in what it leaves."""

from __future__ import annotations

import configparser
import io
import os
import secrets
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelbake.bake import buildx
from modelbake.bake.host import HostInputs
from tests.images import baking, marks
from tests.images.engine import SANDBOX, must

BUNDLE = "boundary-regressor"
RUNTIME = "modelbake/runtime:planted"
# The discard port: nobody listens there in a build container, so pip is refused at once.
INDEX = "http://user:{}@127.0.0.1:9/simple"
# Stands on what the fetch step left, reads every file there, and proves that it would have found a planted one.
PROBE = r"""
target "probe" {
  contexts = { fetched = "target:trees-BUNDLE" }
  output   = ["type=cacheonly"]
  dockerfile-inline = <<TEXT
FROM fetched
USER 0:0
RUN --network=none --mount=type=secret,id=marks,target=/marks \
    look() { grep -rlF -f /marks --exclude-dir=proc --exclude-dir=sys --exclude=marks / || true; }; \
    found=$(look) && test -z "$found" || { echo "found: $found"; exit 9; }; \
    cp /marks /planted && test "$(look)" = /planted
TEXT
}
"""


@dataclass(frozen=True)
class Planted:
    """A build with a mark in every secret: the marks, the project's copy, the events, the archives by target."""

    marks: tuple[str, ...]
    project: Path
    inputs: HostInputs
    events: buildx.Events
    archives: dict[str, Path]


@pytest.fixture(scope="module")
def planted(folder: Path) -> Iterator[Planted]:
    names = ("pip-comment", "pip-password", "token", "certificate")
    comment, password, token, certificate = made = tuple(f"{name}-{secrets.token_hex(12)}" for name in names)
    host = baking.host()
    ca = folder / "ca.pem"
    own = host.ca_bundle or Path(ssl.get_default_verify_paths().openssl_cafile)
    ca.write_text(f"{own.read_text(encoding='utf-8', errors='replace')}\n# {certificate}\n", encoding="utf-8")
    inputs = HostInputs(pip_conf(host.pip_conf or "", password, comment), host.wheels, ca, token)
    project = baking.copy_project(folder / "planted")
    # Of this run alone, so that every step that sees a secret is run, and the ordinary images' cache stays as it is.
    for name in ("locks/runtime.txt", f"bundles/{BUNDLE}/bundle.toml"):
        with open(project / name, "a", encoding="utf-8") as file:
            file.write(f"\n# {os.urandom(8).hex()}\n")
    bundle = f"bundle-{BUNDLE}"
    archives = {bundle: folder / "planted-bundle.tar", "runtime": folder / "planted-runtime.tar"}
    events = baking.bake(
        {bundle: baking.to_archive(archives[bundle]), "runtime": "type=docker"},
        root=project,
        overrides=[f"runtime.tags={RUNTIME}"],
        inputs=inputs,
    )
    try:
        must("save", "--output", str(archives["runtime"]), RUNTIME)
        yield Planted(made, project, inputs, events, archives)
    finally:
        must("image", "rm", RUNTIME)


def pip_conf(text: str, password: str, comment: str) -> str:
    """The host's configuration with one more index, which has a password and does not answer."""
    parser = configparser.RawConfigParser()
    parser.read_string(text or "[global]\n")
    more = [parser.get("global", "extra-index-url", fallback=""), INDEX.format(password)]
    parser.set("global", "extra-index-url", "\n".join(filter(None, more)))
    parser.set("global", "retries", "0")
    buffer = io.StringIO()
    parser.write(buffer)
    return f"{buffer.getvalue()}# {comment}\n"


@pytest.mark.builds
def test_the_secrets_were_in_use(planted: Planted) -> None:
    """Without this the other tests would pass on a build that had none."""
    (install,) = [
        vertex
        for vertex in planted.events.vertexes.values()
        if "locks/runtime.txt" in vertex.name and " RUN " in vertex.name
    ]
    (fetch,) = [vertex for vertex in planted.events.vertexes.values() if "_docker.sh fetch" in vertex.name]

    assert not install.cached
    assert not fetch.cached
    assert any("@127.0.0.1:9" in line for line in install.log)


@pytest.mark.builds
def test_no_secret_is_in_a_blob_or_the_configuration_of_an_image(planted: Planted) -> None:
    for target, archive in planted.archives.items():
        assert marks.find(marks.streams(archive), planted.marks) == [], target


@pytest.mark.builds
def test_no_secret_is_in_the_log_of_the_build(planted: Planted) -> None:
    said = [(v.name, io.BytesIO("\n".join([v.name, *v.log]).encode())) for v in planted.events.vertexes.values()]

    assert marks.find(said, planted.marks) == []


@pytest.mark.builds
def test_no_secret_is_in_the_environment_of_a_container(planted: Planted) -> None:
    environment = must("run", "--rm", *SANDBOX, "--entrypoint=env", RUNTIME)

    assert "MODELBAKE_MODELS=/models" in environment
    assert marks.find([("environment", io.BytesIO(environment.encode()))], planted.marks) == []


@pytest.mark.builds
def test_no_secret_is_left_in_the_stage_that_fetched(planted: Planted, tmp_path: Path) -> None:
    """That stage is in no image, but a shared build cache would carry it."""
    (tmp_path / "marks").write_text("\n".join(planted.marks) + "\n")
    (planted.project / "docker-bake.override.hcl").write_text(PROBE.replace("BUNDLE", BUNDLE))

    baking.bake(
        {"probe": baking.CACHE_ONLY},
        root=planted.project,
        overrides=[f"trees-{BUNDLE}.target=fetch", f"probe.secrets=id=marks,src={tmp_path / 'marks'}"],
        inputs=planted.inputs,
    )
