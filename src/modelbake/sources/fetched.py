"""A folder that a fetch filled: the source files in `files/`, and in `source.json` which weights they are and whence."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from modelbake.bundle import safe_relative_path
from modelbake.errors import IntegrityError
from modelbake.files import sha256_of
from modelbake.manifest import PassedOver, SourceRecord, Weights
from modelbake.sources.safety import refuse_unsafe_tensors

RECORD_NAME = "source.json"
FILES_FOLDER = "files"
# The record's type of source where somebody's own weights were taken.
DEPLOYED = "deployed"


class Fetched(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a fetch brought: which weights these are, and the record for the manifest.

    `passed_over` are the bundle's candidates before the one whose files these are: none for its own model.
    """

    bundle: str
    definition: str
    weights: Weights
    source: SourceRecord
    passed_over: tuple[PassedOver, ...] = ()


def emptied(to: Path) -> Path:
    """`to/files`, empty. Whatever else is in `to` is not ours to delete: people name folders of their own."""
    (to / RECORD_NAME).unlink(missing_ok=True)
    folder = to / FILES_FOLDER
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def write_record(to: Path, fetched: Fetched) -> None:
    """Write the folder's record, at once or not at all; the files must be there already."""
    partial = to / f".{RECORD_NAME}"
    try:
        partial.write_bytes(msgspec.json.encode(fetched))
        os.replace(partial, to / RECORD_NAME)
    finally:
        partial.unlink(missing_ok=True)


def read_fetched(folder: Path) -> Fetched:
    """The record of a folder that `fetch` wrote; IntegrityError where it is none."""
    path = folder / RECORD_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Fetched)
    except (OSError, msgspec.DecodeError) as error:
        raise IntegrityError(f"{path}: this is no folder that `modelbake fetch --to` wrote ({error}).") from error


def check_files(folder: Path, fetched: Fetched) -> None:
    """That the files of a fetched folder are those of its record, and fit to be read.

    IntegrityError where one was changed or lost, RefusedError where one bears the name of a safetensors file and is none.
    """
    for ref in fetched.source.files:
        path = folder / FILES_FOLDER / safe_relative_path(ref.path, str(folder / RECORD_NAME))
        if not path.is_file() or sha256_of(path) != ref.sha256:
            raise IntegrityError(f"{path} changed after it was fetched; fetch it again.")
        refuse_unsafe_tensors(path)
