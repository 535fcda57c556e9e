"""What a bundle's definition would have to say to be pinned, by what its sources say now."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass, field

from msgspec.structs import replace

from modelbake.bundle import Bundle, FilePin, HubSource, LocalSource, SourceSpec
from modelbake.errors import IntegrityError, SourceUnreachableError
from modelbake.manifest import FileRef
from modelbake.output import out
from modelbake.settings import Settings
from modelbake.sources.survey import Answer, Surveyor

COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Change:
    """One value of the definition that is not what it should be; `old` is None where there was none."""

    where: str
    old: str | None
    new: str


@dataclass(frozen=True)
class Resolved:
    """A bundle as it is and as it is pinned.

    `origins` says which source gave each file's digest, `mirrors` what the other sources have in its place, by their listings:
    "same", "other", "absent", or "not compared".
    """

    bundle: Bundle
    pinned: Bundle
    origins: dict[str, str] = field(default_factory=dict)
    mirrors: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def changes(self) -> list[Change]:
        """Old and new values, in the definition's order."""
        changes = []
        for place, before, after in zip(
            _places(self.bundle), self.bundle.candidates, self.pinned.candidates, strict=True
        ):
            if after.pinned != before.pinned:
                changes.append(Change(f"{place}pinned", "false", "true"))
            for index, (old, new) in enumerate(zip(before.sources, after.sources, strict=True)):
                if isinstance(old, HubSource) and isinstance(new, HubSource):
                    where = f"{place}sources[{index}] {old.repository}"
                    changes += _changes(where, old, new, ("revision", "follow"))
            for was, now in zip(before.files, after.files, strict=True):
                changes += _changes(f"{place}{was.path}", was, now, ("sha256", "size"))
        return changes


def _places(bundle: Bundle) -> list[str]:
    """What stands before the names of each candidate's values: nothing for the bundle's own."""
    return ["", *(f"fallbacks[{index}] " for index in range(len(bundle.fallbacks)))]


def resolve(settings: Settings, bundles: list[Bundle], update: bool) -> list[Resolved]:
    """Each bundle with every revision a commit and every file with its digest and size.

    The first source that lists a file says what its bytes are; the others are compared with it by their listings, and one that
    has other bytes is warned of. `update` takes the newest commit of what a hub source follows, and new digests in place of old.
    Raises SourceUnreachableError, with every source of every bundle that could not be asked, and IntegrityError where pins are
    not what the source says and `update` is not set.
    """
    failures: list[str] = []
    resolved = []
    with closing(out.progress(None, "lock")) as progress:
        surveyor = Surveyor(settings, progress)
        for bundle in bundles:
            try:
                resolved.append(_resolve(settings, surveyor, bundle, update))
            except SourceUnreachableError as error:
                failures.append(str(error))
    if failures:
        raise SourceUnreachableError("\n".join([*failures, "Nothing was written."]))
    return resolved


def _resolve(settings: Settings, surveyor: Surveyor, bundle: Bundle, update: bool) -> Resolved:
    """The bundle and each of its fallbacks, in the way of `_resolve_one`."""
    own, *others = [_resolve_one(settings, surveyor, candidate, update) for candidate in bundle.candidates]
    fallbacks = tuple(
        replace(fallback, sources=one.pinned.sources, files=one.pinned.files, pinned=True)
        for fallback, one in zip(bundle.fallbacks, others, strict=True)
    )
    origins, mirrors = dict(own.origins), dict(own.mirrors)
    for place, one in zip(_places(bundle)[1:], others, strict=True):
        origins |= {f"{place}{path}": label for path, label in one.origins.items()}
        mirrors |= {f"{place}{label}": found for label, found in one.mirrors.items()}
    return Resolved(bundle, replace(own.pinned, fallbacks=fallbacks), origins, mirrors)


def _resolve_one(settings: Settings, surveyor: Surveyor, bundle: Bundle, update: bool) -> Resolved:
    hubs = [source for source in bundle.sources if isinstance(source, HubSource)]
    if hubs and settings.hub_offline:
        names = ", ".join(hub.repository for hub in hubs)
        raise SourceUnreachableError(
            f"{bundle.name}: HF_HUB_OFFLINE is set, and only the hub knows what {names} is; unset it, or leave the bundle out."
        )
    asked = replace(bundle, sources=tuple(_to_ask(source, update) for source in bundle.sources))
    answers = surveyor.ask(asked)
    able = _able(bundle, answers)
    commits = {answer.spec: answer.commit for answer in able}
    sources = tuple(
        _with_commit(old, commits.get(spec)) for old, spec in zip(bundle.sources, asked.sources, strict=True)
    )
    origins: dict[str, str] = {}
    mirrors: dict[str, dict[str, str]] = {}
    files = []
    for pin in bundle.files:
        ref, origin = _measure(surveyor, bundle, pin, able, update)
        files.append(FilePin(pin.path, ref.sha256, ref.size))
        origins[pin.path] = origin.label
        for answer in able:
            if answer is not origin:
                mirrors.setdefault(answer.label, {})[pin.path] = _compare(surveyor, bundle, answer, ref)
    pinned = replace(bundle, sources=sources, files=tuple(files), pinned=True)
    return Resolved(bundle, pinned, origins, mirrors)


def _to_ask(source: SourceSpec, update: bool) -> SourceSpec:
    if update and isinstance(source, HubSource) and source.follow:
        return replace(source, revision=source.follow)
    return source


def _able(bundle: Bundle, answers: list[Answer]) -> list[Answer]:
    """The answers that hold a listing, where those suffice: every hub's, since no mirror knows what a revision is, else any."""
    able = [answer for answer in answers if answer.failure is None]
    failed = [answer for answer in answers if answer.failure is not None]
    if able and not any(isinstance(answer.spec, HubSource) for answer in failed):
        for answer in failed:
            out.warn(f"{bundle.name}: not compared: {answer.failure}")
        return able
    tried = "\n".join(
        f"  - {answer.failure or f'{answer.label}: answers, but only the hub knows the commit'}" for answer in answers
    )
    kind = IntegrityError if any(isinstance(one.failure, IntegrityError) for one in failed) else SourceUnreachableError
    raise kind(
        f"{bundle.name}: cannot be locked. Tried:\n{tried}\nCheck the network, HF_ENDPOINT, HF_TOKEN and pip's configuration."
    )


def _with_commit(source: SourceSpec, commit: str | None) -> SourceSpec:
    """The hub source at that commit; a branch or tag that stood in its place is followed from now on."""
    if not isinstance(source, HubSource) or commit is None:
        return source
    named = None if COMMIT.fullmatch(source.revision) else source.revision
    if not COMMIT.fullmatch(commit) or (commit != source.revision and not (named or source.follow)):
        raise IntegrityError(
            f"{source.repository}: asked for {source.revision}, the hub answers with {commit!r}; do not use this hub."
        )
    return replace(source, revision=commit, follow=source.follow or named)


def _measure(
    surveyor: Surveyor, bundle: Bundle, pin: FilePin, able: list[Answer], update: bool
) -> tuple[FileRef, Answer]:
    """The file's digest and size, and the source that says so: the first that lists it."""
    for answer in able:
        if pin.path not in answer.listing:
            continue
        known = FileRef(pin.path, pin.sha256, pin.size) if pin.sha256 and pin.size is not None else None
        if known is not None and surveyor.agrees(answer, known):
            return known, answer
        ref = surveyor.measure(answer, pin.path)
        wrong = pin.sha256 not in (None, ref.sha256) or pin.size not in (None, ref.size)
        if wrong and not update:
            raise IntegrityError(
                f"{bundle.name}: {answer.label} has {pin.path} with the sha256 {ref.sha256} and {ref.size} bytes, but "
                f"{pin.sha256 or 'no sha256'} and {pin.size if pin.size is not None else 'no'} bytes are pinned. Nothing was "
                "written. Find out why; if the new bytes are the right ones, `modelbake lock --update` takes them."
            )
        return ref, answer
    names = "\n".join(f"  - {answer.label}: has no {pin.path}" for answer in able)
    raise SourceUnreachableError(
        f"{bundle.name}: no source has {pin.path}. Tried:\n{names}\nCorrect the path or the sources in its bundle.toml."
    )


def _compare(surveyor: Surveyor, bundle: Bundle, answer: Answer, ref: FileRef) -> str:
    if ref.path not in answer.listing:
        return "absent"
    same = surveyor.agrees(answer, ref)
    if same is None and isinstance(answer.spec, LocalSource):
        same = surveyor.measure(answer, ref.path) == ref
    if same is False:
        out.warn(f"{bundle.name}: {answer.label} has other bytes of {ref.path}; builds will not take them from there.")
    return {True: "same", False: "other", None: "not compared"}[same]


def _changes(name: str, old: HubSource | FilePin, new: HubSource | FilePin, fields: tuple[str, ...]) -> list[Change]:
    pairs = [(field, getattr(old, field), getattr(new, field)) for field in fields]
    return [
        Change(f"{name}: {field}", None if before is None else str(before), str(after))
        for field, before, after in pairs
        if before != after
    ]
