"""Goldens: inputs and the reference framework's outputs in one .npz per bundle, written so that same arrays give same bytes.

Keys are `<role>/<case>/<part>/<name>`: part `input` and `output` hold the graph's tensors, `raw` what a user hands in (`text`: a
unicode array; `image.<i>`: uint8 [height, width, 3]), from which the runtime must make the very inputs. No array is pickled.

The case called `evaluation` has no inputs, only `raw` (texts as `lines`: the bytes of a UTF-8 text) and outputs: many real items, of
which the runtime makes the inputs in batches. Smaller variants are measured on it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelbake.errors import IntegrityError

Arrays = dict[str, NDArray[np.generic]]

EVALUATION = "evaluation"


@dataclass(frozen=True)
class Case:
    """One call of a graph: its inputs, the reference's outputs, and what the inputs were made from where that is kept."""

    role: str
    name: str
    inputs: Arrays
    outputs: Arrays
    raw: Arrays = field(default_factory=dict)


def evaluation_of_texts(role: str, texts: Sequence[str], outputs: Arrays) -> Case:
    """The case to measure a text encoder's variants on; outputs are [len(texts), …]."""
    lines = np.frombuffer("\n".join(texts).encode(), np.uint8)
    return Case(role, EVALUATION, {}, outputs, {"lines": lines})


def own_role(role: str, precision: str) -> str:
    """The role of cases that hold what a smaller variant itself gave when it was made, for the same inputs as the role's own, in
    float32 arithmetic throughout."""
    return f"{role}.{precision}"


def texts_of(case: Case) -> list[str]:
    """The texts that an evaluation case was made from; none where it was made from images."""
    lines = case.raw.get("lines")
    try:
        return [] if lines is None else lines.tobytes().decode().split("\n")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"The golden case {case.name!r} holds no UTF-8 text; build the bundle again.") from error


def images_of(case: Case) -> list[NDArray[np.generic]]:
    """The images that a case was made from, in order."""
    names = (name for name in case.raw if name.startswith("image."))
    return [case.raw[name] for name in sorted(names, key=lambda name: int(name.partition(".")[2]))]


def write(path: Path, cases: list[Case]) -> None:
    """Write the cases to `path` (.npz, stored uncompressed, constant time stamps)."""
    members: dict[str, NDArray[np.generic]] = {}
    for case in cases:
        for part, arrays in (("input", case.inputs), ("output", case.outputs), ("raw", case.raw)):
            for name, array in arrays.items():
                members[f"{case.role}/{case.name}/{part}/{name}"] = array
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for key in sorted(members):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(members[key], order="C"), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0)), buffer.getvalue())


def read(path: Path) -> Iterator[Case]:
    """The cases of `path`, sorted by role and name; IntegrityError where the file is no such archive."""
    parts: dict[tuple[str, str], dict[str, Arrays]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                role, case, part, name = member.filename.removesuffix(".npy").split("/")
                if member.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{member.filename} is compressed")
                # The whole member at once, so that its check sum is compared whatever its header says.
                buffer = io.BytesIO(archive.read(member))
                array = np.lib.format.read_array(buffer, allow_pickle=False)
                parts.setdefault((role, case), {"input": {}, "output": {}, "raw": {}})[part][name] = array
    except (ValueError, KeyError, OSError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        # RuntimeError is what zipfile makes of flags for encryption and the like.
        raise IntegrityError(f"{path}: these goldens cannot be read ({error}); build the bundle again.") from error
    for (role, case), found in sorted(parts.items()):
        yield Case(role, case, found["input"], found["output"], found["raw"])


def as_float32(arrays: Mapping[str, NDArray[np.generic]]) -> Arrays:
    """The arrays with every float64 rounded to float32.

    Reference outputs are computed in double precision and rounded once: that is nearer to the truth than any float32 run, and the
    same on every processor.
    """
    return {name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in arrays.items()}
