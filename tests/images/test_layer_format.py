"""oci.layer writes what BuildKit makes of `COPY --link`, to the byte, also where names and sizes are awkward."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from modelbake.oci import layer
from modelbake.oci.model import digest_of
from tests.images.oci import Archive

SIZES = (0, 1, 511, 512, 513, 1 << 20)
PATHS = (
    "models/" + "deep/" * 30 + "x.bin",
    # A path of 101 characters and more goes into ustar's prefix where it divides at a slash, else into a PAX header.
    "models/" + "c" * 93,
    "models/" + "c" * 94,
    "models/" + "f" * 60 + "/" + "g" * 99,
    "models/" + "f" * 60 + "/" + "g" * 101,
    "models/" + "f" * 147 + "/" + "g" * 99,
    "models/" + "f" * 148 + "/" + "g" * 99,
    "models/" + "f" * 149 + "/" + "g" * 99,
    # As long as a file system takes.
    "models/" + "i" * 255,
    "models/" + "d" * 91 + "/x",
    "models/" + "d" * 92 + "/x",
    "models/" + "d" * 93 + "/x",
    "models/" + "d" * 91 + "/" + "e" * 200 + "/x",
    # Other characters than ASCII take a PAX header; what is left without them is cut, also in the middle of its folders.
    "models/ünï/mödel.bin",
    "models/" + "é" * 80 + ".bin",
    "models/" + "日本" * 30 + "/x",
    *("models/" + "ü" * count + "/" + "z" * more for count in (1, 44, 46, 47, 48) for more in (1, 50)),
    "models/" + "h" * 86 + "/PaxHeaders.0/x",
    "models/sp ace = + % '\".bin",
    "models/~x/.hidden/#1",
)
FILES = [*((f"models/of {size} bytes", size) for size in SIZES), *((path, 7) for path in PATHS)]


def content(size: int) -> bytes:
    return bytes(number % 251 for number in range(size))


@pytest.fixture(scope="module")
def archive(folder: Path) -> Archive:
    """An image of one layer a file, made by BuildKit of trees such as `modelbake layers` lays out."""
    trees = folder / "trees"
    lines = ["FROM scratch"]
    for number, (path, size) in enumerate(FILES):
        target = trees / str(number) / path
        target.parent.mkdir(parents=True)
        target.write_bytes(content(size))
        lines.append(f"COPY --link /{number}/ /")
    for where, _, names in os.walk(trees, topdown=False):
        for name in names:
            os.chmod(Path(where, name), 0o644)
            os.utime(Path(where, name), (0, 0))
        os.chmod(where, 0o755)
        os.utime(where, (0, 0))
    output = f"type=oci,dest={folder / 'awkward.tar'},compression=uncompressed,force-compression=true"
    done = subprocess.run(
        ["docker", "buildx", "build", "--provenance=false", f"--output={output}", "--file=-", str(trees)],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Archive(folder / "awkward.tar")


@pytest.mark.builds
@pytest.mark.parametrize("number", range(len(FILES)), ids=lambda number: f"{FILES[number][0][:40]}-{FILES[number][1]}")
def test_buildkit_and_the_layer_writer_make_the_same_blob(archive: Archive, number: int) -> None:
    path, size = FILES[number]
    blob = archive.blob(archive.layers[number])

    assert blob[: len(layer.head(path, size))] == layer.head(path, size)
    whole = layer.head(path, size) + content(size) + layer.tail(size)
    assert digest_of(whole) == archive.layers[number]
    assert layer.read_head(blob, path, len(blob)) == layer.Entry(path, len(layer.head(path, size)), size)
