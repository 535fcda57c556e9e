"""Whose signatures a bundle must bear before it is pulled: a policy file, or keys named on the command line.

The file is modelbake.policy.toml; docs/trust.md describes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from modelbake.errors import IntegrityError, MachineError, RefusedError
from modelbake.oci import sign
from modelbake.oci.keys import PublicKey, read_public
from modelbake.oci.model import Descriptor
from modelbake.oci.place import Place
from modelbake.oci.reference import DOCKER_HUB, Reference
from modelbake.oci.sign import Signature

SCHEMA_VERSION = 1
# What the local store is called in a policy's patterns.
STORE = "store"

_LARGEST = 1 << 20
# Other names of one registry; a rule for one of them holds for all.
_HUB_HOSTS = ("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")
_PATTERN = r"^[A-Za-z0-9*][A-Za-z0-9*._/:\[\]-]*$(?!\n)"


class _RuleTable(Struct, frozen=True, forbid_unknown_fields=True):
    pattern: Annotated[str, Meta(pattern=_PATTERN, max_length=512)]
    keys: tuple[str, ...] = ()
    needed: Annotated[int, Meta(ge=1)] | None = None
    unsigned: bool = False


class _PolicyTable(Struct, frozen=True, forbid_unknown_fields=True):
    schema_version: Annotated[int, Meta(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]
    rules: Annotated[tuple[_RuleTable, ...], Meta(min_length=1, max_length=1000)]


@dataclass(frozen=True)
class Rule:
    """What references of the pattern need: `needed` of the keys (None: all); no keys: they may be unsigned.

    A pattern is matched against HOST/REPOSITORY, without tag and digest. `*` stands for anything but a slash, `**` for anything.
    """

    pattern: str
    keys: tuple[PublicKey, ...]
    needed: int | None = None

    def matches(self, name: str) -> bool:
        """Whether the rule is for HOST/REPOSITORY, as `subject` gives it."""
        parts = re.split(r"(\*+)", self.pattern.lower())
        wild = {"*": "[^/]*", "**": ".*"}
        return re.fullmatch("".join(wild.get(part, re.escape(part)) for part in parts), name, re.DOTALL) is not None


@dataclass(frozen=True)
class Policy:
    """Rules, of which the first that matches counts; what none matches is refused. `name` is what messages call it."""

    name: str
    rules: tuple[Rule, ...]

    def rule(self, reference: Reference | None) -> Rule:
        """The rule for the reference, None for the store; RefusedError where there is none."""
        name = subject(reference)
        for rule in self.rules:
            if rule.matches(name):
                return rule
        raise RefusedError(
            f"{self.name} has no rule for {name}, and what has none is refused; add one, with the keys that sign it."
        )


def of_keys(paths: Sequence[Path]) -> Policy:
    """The policy of `--require-signature KEY`: each of these keys must have signed, whatever is pulled."""
    return Policy("--require-signature", (Rule("**", tuple(read_public(path) for path in paths)),))


def read(path: Path) -> Policy:
    """The policy of the file, its keys read too; key paths are relative to its folder.

    MachineError where it cannot be read, IntegrityError where it does not fit.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise MachineError(
            f"The policy {path} cannot be read ({error.strerror}); give the path of a policy."
        ) from error
    try:
        if len(data) > _LARGEST:
            raise msgspec.ValidationError(f"it has more than {_LARGEST:,} bytes")
        table = msgspec.toml.decode(data, type=_PolicyTable)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{path}: {error}. Correct the policy; docs/trust.md describes every field.") from error
    rules = tuple(_rule(path, number, rule) for number, rule in enumerate(table.rules))
    return Policy(str(path), rules)


def require(place: Place, descriptor: Descriptor, reference: Reference | None, policy: Policy) -> tuple[Signature, ...]:
    """The signatures by which the policy lets this document of the place be used; none where it lets it be unsigned.

    To be called with what the reference was resolved to, before a blob of it moves, and to go on with that descriptor alone.
    `reference` is None for the local store. RefusedError where the policy does not let it; otherwise as `sign.verify`.
    """
    rule = policy.rule(reference)
    if not rule.keys:
        return ()
    try:
        return sign.verify(place, descriptor, rule.keys, rule.needed)
    except RefusedError as error:
        raise RefusedError(f"{policy.name} wants signatures of {rule.pattern}: {error}") from error


def subject(reference: Reference | None) -> str:
    """What patterns are matched against: HOST/REPOSITORY, in the one form for all ways to write it."""
    if reference is None:
        return STORE
    host = re.sub(r":0*443$", "", reference.host.lower())
    return f"{DOCKER_HUB if host in _HUB_HOSTS else host}/{reference.repository}"


def _rule(path: Path, number: int, table: _RuleTable) -> Rule:
    where = f"{path}: rules[{number}] ({table.pattern})"
    problems = []
    if bool(table.keys) == table.unsigned:
        problems.append("it must have either keys or unsigned = true")
    if table.needed is not None and table.needed > len(table.keys):
        problems.append(f"it needs {table.needed} signatures of {len(table.keys)} keys")
    if "***" in table.pattern:
        problems.append("stars come alone or in twos")
    last = table.pattern.rpartition("/")[2]
    if ":" in last:
        problems.append("a pattern has no tag: it is matched against HOST/REPOSITORY")
    keys = tuple(read_public(path.parent / key) for key in table.keys) if not problems else ()
    if len({key.fingerprint for key in keys}) != len(keys):
        problems.append("two of its keys are one and the same")
    if problems:
        raise IntegrityError(
            f"{where}: {'; '.join(problems)}. Correct the policy; docs/trust.md describes every field."
        )
    return Rule(table.pattern, keys, table.needed)
