"""The lock file of pulls: which digest each name had when the project took it, so that everybody gets the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from modelbake.errors import IntegrityError, MachineError
from modelbake.files import disk_errors, write_atomically
from modelbake.install import lock_beside
from modelbake.oci.model import Digest


class Pins(Struct, frozen=True, forbid_unknown_fields=True):
    """Digests of images by the names that they were pulled by."""

    schema_version: Annotated[int, Meta(ge=1, le=1)] = 1
    pulls: dict[str, Digest] = {}


def read(path: Path) -> Pins:
    """The pins of a file, none where there is no such file; IntegrityError where it is no lock file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Pins)
    except FileNotFoundError:
        return Pins()
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"{path} is no lock file of pulls ({error}); restore it from version control, or delete it and pull again."
        ) from error
    except OSError as error:
        raise MachineError(f"{path} cannot be read ({error.strerror}).") from error


def add(path: Path, name: str, digest: str) -> None:
    """Pin the name in the file, sorted by name, by one rename; what another pull pinned meanwhile stays.

    IntegrityError where another pull pinned the name to another digest.
    """
    with disk_errors(path.parent), lock_beside(path, "lock"):
        pins = read(path)
        before = pins.pulls.get(name, digest)
        if before != digest:
            raise IntegrityError(
                f"{path} has got {before} for {name} while {digest} was pulled; the tag was moved. Pull again: what the file pins comes."
            )
        data = msgspec.json.encode(Pins(pulls=pins.pulls | {name: digest}), order="deterministic")
        write_atomically(path, msgspec.json.format(data, indent=2) + b"\n")
