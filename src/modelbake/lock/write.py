"""Putting pins into bundle.toml files: only the values that change, all files or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from modelbake.bundle import Bundle, Fallback, HubSource, parse_bundle
from modelbake.errors import IntegrityError, ModelbakeError, UsageError
from modelbake.files import disk_errors
from modelbake.lock.resolve import Resolved
from modelbake.lock.toml import Editor


def rewritten(text: str, resolved: Resolved, where: str) -> str:
    """bundle.toml's `text` with the pins of `resolved`; all else in it as it was.

    IntegrityError where the text is not that of the bundle which was resolved.
    """
    if parse_bundle(text, where) != resolved.bundle:
        raise IntegrityError(f"{where} changed while it was being locked; nothing was written. Run this again.")
    editor = Editor(text)
    _set(editor, (), resolved.bundle, resolved.pinned)
    for index, (old, new) in enumerate(zip(resolved.bundle.fallbacks, resolved.pinned.fallbacks, strict=True)):
        _set(editor, ("fallbacks", index), old, new)
    made = editor.result()
    _check(made, resolved.pinned, where)
    return made


def _set(editor: Editor, place: tuple[str | int, ...], old: Bundle | Fallback, new: Bundle | Fallback) -> None:
    if old.pinned != new.pinned:
        editor.set((*place, "pinned"), new.pinned)
    for index, (before, after) in enumerate(zip(old.sources, new.sources, strict=True)):
        if isinstance(after, HubSource) and before != after:
            editor.set((*place, "sources", index, "revision"), after.revision)
            if after.follow is not None:
                editor.set((*place, "sources", index, "follow"), after.follow)
    for index, pin in enumerate(new.files):
        if pin != old.files[index] and pin.sha256 is not None and pin.size is not None:
            editor.set((*place, "files", index, "sha256"), pin.sha256)
            editor.set((*place, "files", index, "size"), pin.size)


def write_all(folder: Path, resolved: list[Resolved]) -> list[Path]:
    """Rewrite `folder/<bundle>/bundle.toml` of every bundle that changes, and return their paths.

    Every new text is on the disk before the first one takes its place, each by one rename.
    """
    waiting: list[tuple[Path, Path]] = []
    try:
        with disk_errors(folder):
            for one in resolved:
                # Through a link: the file itself is replaced.
                path = (folder / one.bundle.name / "bundle.toml").resolve()
                text = _read(path)
                made = rewritten(text, one, str(path))
                if made != text:
                    waiting.append((_beside(path, made), path))
            for temporary, path in waiting:
                os.replace(temporary, path)
    finally:
        for temporary, _ in waiting:
            temporary.unlink(missing_ok=True)
    return [path for _, path in waiting]


def _read(path: Path) -> str:
    """The text with the ends of its lines as they are."""
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()


def _beside(path: Path, text: str) -> Path:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".bundle.toml-")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, temporary)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _check(made: str, wanted: Bundle, where: str) -> None:
    """Nothing is written that would not read as what was resolved."""
    with suppress(ModelbakeError):
        if parse_bundle(made, where) == wanted:
            return
    raise UsageError(
        f"{where} is written in a way that cannot be changed in place; nothing was written. "
        "Give each source and each file a table of its own ([[sources]], [[files]]), and run this again."
    )
