"""Model repositories as a Hugging Face hub holds them: files, commits and refs, with the object ids of git."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

Source = bytes | Path
CHUNK = 256 * 1024
DATE = "2024-01-02T03:04:05.000Z"
_GIT_PERSON = "Hub <hub@example.invalid> 1704164645 +0000"  # the same moment as DATE

#: What huggingface.co's default .gitattributes puts into LFS, as far as model repositories use it.
LFS_PATTERNS: tuple[str, ...] = (
    "*.7z", "*.arrow", "*.bin", "*.bz2", "*.ckpt", "*.ftz", "*.gguf", "*.gz", "*.h5", "*.joblib", "*.lfs.*",
    "*.mlmodel", "*.model", "*.msgpack", "*.npy", "*.npz", "*.onnx", "*.onnx_data", "*.ot", "*.parquet", "*.pb",
    "*.pickle", "*.pkl", "*.pt", "*.pth", "*.rar", "*.safetensors", "*.tar", "*.tar.*", "*.tflite", "*.tgz", "*.wasm",
    "*.xz", "*.zip", "*.zst",
)  # fmt: skip
#: The hub refuses to keep a larger file in git itself.
LFS_THRESHOLD = 10 * 1024 * 1024


def git_object_id(kind: str, content: bytes) -> str:
    """SHA-1 of a git object: header "<kind> <size>\\0", then the content (git's book, chapter 10.2)."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The text that git keeps in place of an LFS file (git-lfs specification, version 1)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


@dataclass(frozen=True)
class File:
    """One file of a commit; `source` is its content, or the path on disk that is streamed at every request."""

    path: str
    source: Source = field(repr=False)
    size: int
    sha256: str
    blob_id: str
    """SHA-1 of the git blob: of the content, or of the pointer for an LFS file."""
    lfs: bool
    pointer_size: int

    @classmethod
    def of(cls, path: str, source: Source, *, lfs: bool) -> "File":
        """Hash `source` once, in pieces. Raises FileNotFoundError for a path that is not there."""
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        sha256, blob = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        for piece in read(source, 0, size):
            sha256.update(piece)
            if not lfs:  # git sees the pointer alone of an LFS file
                blob.update(piece)
        pointer = lfs_pointer(sha256.hexdigest(), size)
        blob_id = git_object_id("blob", pointer) if lfs else blob.hexdigest()
        return cls(path, source, size, sha256.hexdigest(), blob_id, lfs, len(pointer) if lfs else 0)

    @property
    def etag(self) -> str:
        """What the hub gives as (linked) ETag, unquoted: sha256 of an LFS file, git blob id of any other."""
        return self.sha256 if self.lfs else self.blob_id

    def content(self) -> bytes:
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


def read(source: Source, start: int, stop: int) -> Iterator[bytes]:
    """The bytes start..stop of a source in pieces of at most CHUNK bytes, never the whole of a file on disk at once."""
    if isinstance(source, bytes):
        for at in range(start, stop, CHUNK):
            yield source[at : min(at + CHUNK, stop)]
        return
    with source.open("rb") as file:
        file.seek(start)
        left = stop - start
        while left > 0 and (piece := file.read(min(CHUNK, left))):
            left -= len(piece)
            yield piece


@dataclass(frozen=True)
class Commit:
    """A state of a repository: all of its files by path, and its folders' git tree ids by path ("" is the root)."""

    id: str
    title: str
    files: Mapping[str, File] = field(repr=False)
    trees: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, files: Mapping[str, File], *, commit: str | None, parent: str | None, title: str) -> "Commit":
        trees = _tree_ids(files)
        header = f"tree {trees['']}\n" + (f"parent {parent}\n" if parent else "")
        text = f"{header}author {_GIT_PERSON}\ncommitter {_GIT_PERSON}\n\n{title}\n"
        return cls(commit or git_object_id("commit", text.encode()), title, dict(sorted(files.items())), trees)


def _tree_ids(files: Mapping[str, File]) -> dict[str, str]:
    folders: dict[str, dict[str, tuple[str, str]]] = {"": {}}
    for path, file in files.items():
        parent, _, name = path.rpartition("/")
        folders.setdefault(parent, {})[name] = ("100644", file.blob_id)
        while parent:  # every folder above exists, also one that holds folders only
            parent = parent.rpartition("/")[0]
            folders.setdefault(parent, {})
    ids: dict[str, str] = {}
    for folder in sorted(folders, key=lambda path: path.count("/") + bool(path), reverse=True):
        # git sorts a folder as though its name ended with a slash
        entries = sorted(folders[folder].items(), key=lambda entry: entry[0] + "/" * (entry[1][0] == "40000"))
        tree = b"".join(f"{mode} {name}\0".encode() + bytes.fromhex(oid) for name, (mode, oid) in entries)
        ids[folder] = git_object_id("tree", tree)
        if folder:
            parent, _, name = folder.rpartition("/")
            folders[parent][name] = ("40000", ids[folder])
    return ids


@dataclass
class Repo:
    """A model repository. Tests may change it while the hub runs: new commits, moved branches, other tokens."""

    id: str
    private: str | None = None
    """Token that alone sees the repository; to all others it does not exist. None: everybody sees it."""
    gated: str | None = None
    """Token that alone may download the files; everybody may list them, as on huggingface.co. None: everybody."""
    lfs_patterns: Sequence[str] = LFS_PATTERNS
    lfs_threshold: int = LFS_THRESHOLD
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def add_commit(
        self,
        files: Mapping[str, Source] | Path,
        *,
        commit: str | None = None,
        branch: str | None = "main",
        title: str = "Upload model",
    ) -> str:
        """Add a commit holding exactly `files` (by path, or a folder's) and move `branch` there; returns its id.

        Without `commit` the id is the one git itself would give, so it follows from content, title and parent.
        """
        if isinstance(files, Path):
            root = files
            files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
        hashed = {path: self._file(path, source) for path, source in files.items()}
        made = Commit.of(hashed, commit=commit, parent=self.branches.get(branch or ""), title=title)
        if len(made.id) != 40 or not set(made.id) <= set("0123456789abcdef"):
            raise ValueError(f"a commit is 40 lower-case hex digits, not {made.id!r}")
        self.commits[made.id] = made
        if branch is not None:
            self.branches[branch] = made.id
        return made.id

    def resolve(self, revision: str) -> Commit | None:
        """The commit that a branch, tag, full ref or full commit id names."""
        for name in (revision, revision.removeprefix("refs/heads/"), revision.removeprefix("refs/tags/")):
            for names in (self.branches, self.tags):
                if name in names:
                    return self.commits[names[name]]
        return self.commits.get(revision)

    def file(self, path: str, revision: str = "main") -> File:
        """Facts of one file (size, sha256, blob_id, etag, content()). Raises KeyError when it is not there."""
        commit = self.resolve(revision)
        if commit is None:
            raise KeyError(f"{self.id} has no revision {revision!r}")
        return commit.files[path]

    def _file(self, path: str, source: Source) -> File:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        name = path.rpartition("/")[2]
        lfs = size > self.lfs_threshold or any(fnmatchcase(name, pattern) for pattern in self.lfs_patterns)
        return File.of(path, source, lfs=lfs)
