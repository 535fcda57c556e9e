"""The layer format: what Go's archive/tar writes, what Python's tarfile reads, and what is refused.

That BuildKit writes it too is in tests/images/test_layer_format.py.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelbake.errors import IntegrityError, ModelbakeError, RefusedError
from modelbake.oci import layer
from modelbake.oci.layer import BLOCK, Entry, head, length, read_head, tail

GIB8 = 8**11
_CHARACTERS = st.characters(blacklist_categories=("Cs",), blacklist_characters="/\\\x7f" + "".join(map(chr, range(32))))
COMPONENTS = st.one_of(
    st.text("abc.-_ é日", min_size=1, max_size=130),
    st.text(_CHARACTERS, min_size=1, max_size=60),
    st.integers(85, 160).map(lambda count: "n" * count),
).filter(lambda part: part not in (".", "..") and not part.startswith(".wh."))
PATHS = st.lists(COMPONENTS, min_size=1, max_size=8).map("/".join)
CONTENTS = st.one_of(st.binary(max_size=3 * BLOCK), st.sampled_from([0, 1, 511, 512, 513, 1024]).map(bytes))


def whole(path: str, content: bytes) -> bytes:
    return head(path, len(content)) + content + tail(len(content))


@given(path=PATHS, content=CONTENTS)
@example(path="models/" + "f" * 60 + "/" + "g" * 92, content=b"x")
@example(path="models/" + "b" * 101, content=b"")
def test_tarfile_reads_the_folders_and_the_file_and_nothing_else(path: str, content: bytes) -> None:
    data = whole(path, content)

    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        file = tar.extractfile(members[-1])
        assert file is not None
        assert file.read() == content
    parts = path.split("/")
    assert [m.name for m in members] == ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    assert [m.isdir() for m in members] == [True] * (len(parts) - 1) + [False]
    assert members[-1].isreg()
    assert [m.mode for m in members] == [0o755] * (len(parts) - 1) + [0o644]
    assert {(m.uid, m.gid, m.mtime, m.uname, m.gname, m.linkname) for m in members} == {(0, 0, 0, "", "", "")}
    assert length(path, len(content)) == len(data)
    assert data.endswith(bytes(2 * BLOCK))


@given(path=PATHS, content=CONTENTS)
def test_what_is_written_is_read_again_from_the_head_alone_or_the_whole(path: str, content: bytes) -> None:
    expected = Entry(path, len(head(path, len(content))), len(content))

    assert read_head(head(path, len(content)), "it") == expected
    assert read_head(whole(path, content), "it", length(path, len(content))) == expected


@given(path=PATHS, size=st.integers(0, 1 << 50))
@example(path="models/m", size=GIB8 - 1)
@example(path="models/m", size=GIB8)
def test_any_size_is_read_again_from_the_head(path: str, size: int) -> None:
    assert read_head(head(path, size), "it", length(path, size)) == Entry(path, len(head(path, size)), size)


# SHA-256 of the last member's header as Go 1.19's archive/tar.Writer.WriteHeader wrote it (mode 0644, or 0755 for a folder, ModTime
# 0). The writer of this project agreed with Go's in 60,000 random names and sizes when these were taken.
GO = {
    ("models/onnx/m.onnx_data", GIB8 - 1): (512, "35d000f7ff5d59b01c0849dbc43d75161e1bce199f61ec1b0512d83c34604236"),
    ("models/onnx/m.onnx_data", GIB8): (1536, "e329994b15f7be9eae01c854b6589e6859919cd0a0dfbdf7018d5585d2a4acee"),
    ("models/onnx/m.onnx_data", 10**12): (1536, "85728971d3788567ca834ee3aa6c09eda0a4edec9126fffa574a853544e561d4"),
    ("models/" + "f" * 60 + "/" + "g" * 99, GIB8): (
        1536,
        "8dc824832bff3efe2b44073bb07dfe6362f8f908522ef96b681f4ffdb3912eec",
    ),
    ("models/é.bin", GIB8): (1536, "1559c25e2a58f23a77530b4ecde96b3807f7452e9da6975386393c220a20597c"),
}


@pytest.mark.parametrize(("path", "size"), GO, ids=lambda value: str(value)[:30])
def test_headers_are_those_of_gos_archive_tar(path: str, size: int) -> None:
    count, sha256 = GO[path, size]
    header = head(path, size)[-count:]

    assert hashlib.sha256(header).hexdigest() == sha256


def test_a_file_of_8_gib_has_its_size_in_a_pax_record() -> None:
    header = head("m", GIB8)

    assert header[:124].rstrip(b"\0") == b"PaxHeaders.0/m" + bytes(86) + b"0000000\x000000000\x000000000"
    assert header[BLOCK : BLOCK + 20] == b"19 size=8589934592\n\0"
    assert header[2 * BLOCK + 124 : 2 * BLOCK + 136] == b"00000000000\0"
    assert b"PaxHeaders" not in head("m", GIB8 - 1)


def test_a_long_path_that_divides_at_a_slash_needs_no_pax_header() -> None:
    """Go prefers ustar's prefix, and so does BuildKit."""
    path = "models/" + "f" * 60 + "/" + "g" * 99
    header = head(path, 4)[-BLOCK:]

    assert header[:100] == b"g" * 99 + b"\0"
    assert header[345:500].rstrip(b"\0") == b"models/" + b"f" * 60
    assert b"PaxHeaders" not in head(path, 4)


# ---- what is refused ------------------------------------------------------------------------------------------------


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tar of these members, behind the folder `models`, by Python's writer."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        folder = tarfile.TarInfo("models")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o644
    return info


HOSTILE: dict[str, tuple[bytes, type[ModelbakeError]]] = {
    "symlink": (tar_of((member("models/m", tarfile.SYMTYPE, "/etc/passwd"), b"")), IntegrityError),
    "hard link": (tar_of((member("models/m", tarfile.LNKTYPE, "etc/passwd"), b"")), IntegrityError),
    "character device": (tar_of((member("models/m", tarfile.CHRTYPE), b"")), IntegrityError),
    "block device": (tar_of((member("models/m", tarfile.BLKTYPE), b"")), IntegrityError),
    "fifo": (tar_of((member("models/m", tarfile.FIFOTYPE), b"")), IntegrityError),
    "no file": (tar_of(), IntegrityError),
    "up and away": (whole("models/../../etc/passwd", b"x"), RefusedError),
    "absolute": (tar_of((member("/etc/passwd"), b"x")), RefusedError),
    "a name twice over": (whole("models//m", b"x"), RefusedError),
    "control character": (whole("models/m\n", b"x"), RefusedError),
    "whiteout": (whole("models/.wh.onnx", b""), RefusedError),
    "folders without end": (head("models/" + "d/" * 200 + "m", 1), RefusedError),
    "opaque folder": (whole("models/.wh..wh..opq", b""), RefusedError),
    "gzip": (gzip.compress(whole("models/m", b"x")), IntegrityError),
    "nothing": (b"", IntegrityError),
    "zeros": (bytes(4 * BLOCK), IntegrityError),
    "noise": (b"\x93NUMPY" * 200, IntegrityError),
    "cut in a header": (whole("models/m", b"x")[:700], IntegrityError),
    "cut in a PAX header": (head("models/" + "b" * 120, 1)[: BLOCK * 2 + 40], IntegrityError),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_layer_is_refused(name: str) -> None:
    data, error = HOSTILE[name]

    with pytest.raises(error, match="the layer"):
        read_head(data, "the layer")


FIELDS = {
    "mode": (100, b"0004755"),
    "owner": (108, b"0001750"),
    "group": (116, b"0001750"),
    "time": (136, b"00000000001"),
    "kind": (156, b"7"),
    "link name": (157, b"x"),
    "owner's name": (265, b"root"),
    "device": (329, b"0000001"),
    "prefix": (345, b"tmp"),
    "behind the prefix": (500, b"x"),
}


def _with_field(header: bytes, offset: int, value: bytes) -> bytes:
    """The last block of a head with another value in a field, and the right checksum."""
    block = bytearray(header[-BLOCK:])
    block[offset : offset + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return header[:-BLOCK] + bytes(block)


@pytest.mark.parametrize("field", FIELDS)
def test_another_value_in_any_field_is_another_format(field: str) -> None:
    ours = head("models/m", 1)

    assert _with_field(ours, 100, b"0000644") == ours
    with pytest.raises(IntegrityError, match="no layer of"):
        read_head(_with_field(ours, *FIELDS[field]), "the layer")


@pytest.mark.parametrize("folders", [60, 123, 124, 130])
def test_a_path_that_a_layer_may_have_has_a_head_that_readers_read(folders: int) -> None:
    """Readers take MOST_HEAD bytes of a layer whose path they do not know yet."""
    path = "d/" * folders + "m"
    try:
        layer.check_path(path, "the bundle")
    except RefusedError:
        assert len(head(path, GIB8)) > layer.MOST_HEAD
    else:
        assert read_head(whole(path, b"x" * layer.MOST_HEAD)[: layer.MOST_HEAD], "it").path == path


SECOND = whole("models/first", b"x")[: -2 * BLOCK] + head("models/second", 1)[BLOCK:] + b"y" + tail(1)


def test_a_second_file_is_found_by_the_size_of_the_layer() -> None:
    with pytest.raises(IntegrityError, match="the layer is no layer of modelbake's format"):
        read_head(SECOND, "the layer", len(SECOND))


@pytest.mark.parametrize("difference", [-BLOCK, -1, 1, BLOCK])
def test_another_size_than_the_layers_own_is_refused(difference: int) -> None:
    data = whole("models/m", b"x" * 700)

    assert read_head(data, "it", len(data)).size == 700
    with pytest.raises(IntegrityError, match="no layer of modelbake's format"):
        read_head(data, "it", len(data) + difference)


def _xor(data: bytes, at: int, bits: int) -> bytes:
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]


@given(path=PATHS, size=st.integers(0, GIB8 + 1), at=st.integers(0), bits=st.integers(1, 255))
def test_no_other_head_is_taken_for_a_files(path: str, size: int, at: int, bits: int) -> None:
    """Whatever byte differs: what is read back is exactly what would be written, or it is refused."""
    original = head(path, size)
    data = _xor(original, at % len(original), bits)
    try:
        found = read_head(data, "it")
    except ModelbakeError:
        return
    assert data == head(found.path, found.size)


@given(st.binary(max_size=2000), st.sampled_from([b"", head("models/m", 3), head("models/" + "é" * 90, 3)]))
def test_whatever_the_bytes_are_the_error_is_a_deliberate_one(noise: bytes, start: bytes) -> None:
    data = start[: len(start) // 2] + noise
    try:
        found = read_head(data, "it")
    except ModelbakeError:
        return
    assert data.startswith(head(found.path, found.size))


def _pax(records: bytes) -> bytes:
    """A file whose PAX header holds these records."""
    header = head("models/" + "é" * 90, 1)
    pax = header[: header.index(b"PaxHeaders") // BLOCK * BLOCK + BLOCK]
    pax = _with_field(pax, 124, b"%011o" % len(records))
    return pax + records + bytes(-len(records) % BLOCK) + header[-BLOCK:]


@pytest.mark.parametrize(
    "records",
    [
        b"18 path=../../x\xff\n",
        b"14 path=a\xff\xfe\n",
        b"99999999999999999999 path=x\n",
        b"0 path=x\n",
        b"11 path=x\0y\n",
        b"12 size=-17\n",
        b"22 GNU.sparse.map=1,x\n",
        b"23 GNU.sparse.size=abc\n",
        b"30 size=99999999999999999999999\n",
        b"13 mtime=inf\n",
        b"no record at all",
    ],
)
def test_strange_pax_records_are_refused(records: bytes) -> None:
    with pytest.raises(ModelbakeError, match="the layer"):
        read_head(_pax(records), "the layer")


def test_the_pax_header_of_these_tests_is_one_that_would_be_read() -> None:
    """A check of the check."""
    path = "models/" + "é" * 90
    record = layer._record("path", path)

    assert read_head(_pax(record), "it") == Entry(path, len(head(path, 1)), 1)


def test_a_plain_path_passes() -> None:
    layer.check_path("models/onnx/a.wh.b/weights.wh", "the bundle")
