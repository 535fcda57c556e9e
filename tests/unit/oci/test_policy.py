"""Policies: which keys a reference needs, and that no way of writing it needs fewer."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelbake.errors import IntegrityError, MachineError, ModelbakeError, RefusedError
from modelbake.oci import policy, sign
from modelbake.oci.policy import Policy, Rule, require
from modelbake.oci.reference import parse
from modelbake.settings import POLICY_NAME, from_environment
from tests.unit.oci.trust import key, store_with

ALICE, BOB = key("alice"), key("bob")
HEX = "0" * 64


def write(folder: Path, rules: str) -> Path:
    (folder / "keys").mkdir(exist_ok=True)
    for one in (ALICE, BOB):
        (folder / "keys" / f"{one.name}.pub").write_bytes(one.public.pem())
    path = folder / POLICY_NAME
    path.write_text(f"schema_version = 1\n{rules}")
    return path


def rule(pattern: str, *more: str) -> str:
    return "\n".join(["[[rules]]", f'pattern = "{pattern}"', *more, ""])


ALICE_S = 'keys = ["keys/alice.pub"]'
BOTH = 'keys = ["keys/alice.pub", "keys/bob.pub"]'


def test_the_first_rule_that_matches_counts(tmp_path: Path) -> None:
    found = policy.read(
        write(
            tmp_path,
            rule("r.example/models/*", BOTH) + rule("r.example/**", ALICE_S) + rule("store", "unsigned = true"),
        )
    )
    assert len(found.rule(parse("r.example/models/minilm:1")).keys) == 2
    assert len(found.rule(parse("r.example/models/deep/er")).keys) == 1
    assert found.rule(None).keys == ()
    with pytest.raises(RefusedError, match=r"no rule for other\.example/x"):
        found.rule(parse("other.example/x"))


@pytest.mark.parametrize(
    "text",
    [
        "r.example/models/minilm",
        "r.example/models/minilm:1.0",
        f"r.example/models/minilm@sha256:{HEX}",
        f"r.example/models/minilm:1@sha256:{HEX}",
        "R.Example/models/minilm",
        "r.example:443/models/minilm:1",
        "r.example:0443/models/minilm:1",
    ],
)
def test_no_way_to_write_a_reference_evades_its_rule(text: str) -> None:
    strict = Rule("r.example/models/*", (ALICE.public,))
    found = Policy("p", (strict, Rule("**", ()))).rule(parse(text))
    assert found is strict


@pytest.mark.parametrize("text", ["busybox", "docker.io/library/busybox", "index.docker.io/library/busybox"])
def test_docker_hub_is_one_registry_by_all_its_names(text: str) -> None:
    strict = Rule("docker.io/library/*", (ALICE.public,))
    assert Policy("p", (strict, Rule("**", ()))).rule(parse(text)) is strict


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("r.example/*", "r.example/a", True),
        ("r.example/*", "r.example/a/b", False),
        ("r.example/**", "r.example/a/b", True),
        ("r.example/**", "rxexample/a", False),
        ("r.example/a", "r.example/ab", False),
        ("*.example/a", "r.example/a", True),
        ("*.example/a", "evil/r.example/a", False),
        ("**", "anything/at/all", True),
        ("localhost:5000/*", "localhost:5000/a", True),
        ("localhost:5000/*", "localhost:5001/a", False),
        ("[::1]:5000/*", "[::1]:5000/a", True),
    ],
)
def test_patterns(pattern: str, name: str, expected: bool) -> None:
    assert Rule(pattern, ()).matches(name) is expected


def test_what_is_required_is_verified_and_what_need_not_be_signed_passes(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path / "store", "model")
    reference = parse("r.example/models/minilm:1")
    found = policy.read(write(tmp_path, rule("r.example/models/*", BOTH, "needed = 1") + rule("**", "unsigned = true")))
    with pytest.raises(RefusedError, match=r"policy\.toml wants signatures of r\.example/models/\*: .* not signed"):
        require(store, subject, reference, found)
    sign.sign(store, subject, "r.example/models/minilm", BOB)
    assert [one.key.fingerprint for one in require(store, subject, reference, found)] == [BOB.public.fingerprint]
    assert require(store, subject, parse("r.example/other"), found) == ()


def test_keys_of_the_command_line_are_all_required_of_everything(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path / "store", "model")
    write(tmp_path, rule("**", ALICE_S))
    found = policy.of_keys([tmp_path / "keys" / "alice.pub", tmp_path / "keys" / "bob.pub"])
    sign.sign(store, subject, "x", ALICE)
    for reference in (None, parse("r.example/a/b/c:1")):
        with pytest.raises(RefusedError, match=r"by .*bob\.pub"):
            require(store, subject, reference, found)
    sign.sign(store, subject, "x", BOB)
    assert len(require(store, subject, None, found)) == 2


def test_a_command_below_the_project_is_bound_by_its_policy_too(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert from_environment({}, below).policy is None
    path = write(tmp_path, rule("**", ALICE_S))
    assert from_environment({}, below).policy == from_environment({}, tmp_path).policy == path
    assert from_environment({"MODELBAKE_ROOT": str(tmp_path)}, Path("/")).policy == path


def test_a_policy_that_leads_nowhere_is_no_missing_policy(tmp_path: Path) -> None:
    (tmp_path / POLICY_NAME).symlink_to(tmp_path / "gone")
    found = from_environment({}, tmp_path).policy
    assert found is not None
    with pytest.raises(MachineError, match="cannot be read"):
        policy.read(found)


@pytest.mark.parametrize(
    "rules",
    [
        "",
        "rules = []",
        rule("**"),
        rule("**", ALICE_S, "unsigned = true"),
        rule("**", "keys = []"),
        rule("**", ALICE_S, "needed = 2"),
        rule("**", ALICE_S, "needed = 0"),
        rule("**", 'keys = ["keys/alice.pub", "keys/../keys/alice.pub"]'),
        rule("***", ALICE_S),
        rule("", ALICE_S),
        rule("r.example/a:1", ALICE_S),
        rule(f"r.example/a@sha256:{HEX}", ALICE_S),
        rule("r.example/a b", ALICE_S),
        rule("**", ALICE_S, "need = 1"),
        rule("**", ALICE_S) + "x = 1",
        "rules = 1",
        "[[rules",
        "\x00",
    ],
)
def test_a_policy_that_does_not_fit_is_refused_whole(tmp_path: Path, rules: str) -> None:
    with pytest.raises(IntegrityError, match=r"Correct the policy"):
        policy.read(write(tmp_path, rules))


def test_another_version_of_the_format_is_not_guessed_at(tmp_path: Path) -> None:
    path = write(tmp_path, rule("**", ALICE_S))
    path.write_text(path.read_text().replace("schema_version = 1", "schema_version = 2"))
    with pytest.raises(IntegrityError):
        policy.read(path)


def test_a_key_that_is_missing_is_an_error_before_anything_is_pulled(tmp_path: Path) -> None:
    with pytest.raises(ModelbakeError, match=r"gone\.pub"):
        policy.read(write(tmp_path, rule("**", 'keys = ["gone.pub"]')))
