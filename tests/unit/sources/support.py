"""What the tests of the sources share: settings, definitions, a download into a store, wheels, and a small web server."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import stat
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from types import TracebackType

import msgspec

from modelbake.bundle import Bundle, FilePin, SampleSource, SourceSpec, TextEncoderModel
from modelbake.digests import Digests
from modelbake.output import Output
from modelbake.settings import Settings
from modelbake.sources.base import RemoteFile, Source
from modelbake.sources.transfer import Blob, BlobStore

WEIGHTS = Random(0).randbytes(400_000)
CONFIG = b'{"dim": 2}'
FILE = "model.safetensors"
REPOSITORY = "org/model"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pin(path: str, content: bytes) -> FilePin:
    return FilePin(path, sha256(content), len(content))


def make_settings(folder: Path, endpoint: str = "http://127.0.0.1:9", **fields: object) -> Settings:
    """Settings whose folders lie below `folder`; without an endpoint the hub's port is closed."""
    settings = Settings(
        root=folder / "project",
        models_dir=folder / "models",
        cache_dir=folder / "cache",
        weights="auto",
        hub_endpoint=endpoint,
        hub_token=None,
        hub_offline=False,
        ca_bundle=None,
        threads=None,
        store_dir=folder / "store",
    )
    return replace(settings, **fields)  # type: ignore[arg-type]


def make_bundle(sources: list[SourceSpec], files: list[FilePin], *, pinned: bool = True, name: str = "small") -> Bundle:
    return Bundle(
        schema_version=1,
        name=name,
        version="1.0.0",
        description="for tests",
        licence="MIT",
        model=TextEncoderModel("small", 2),
        sources=tuple(sources),
        files=tuple(files),
        pinned=pinned,
    )


def write_definition(root: Path, bundle: Bundle) -> None:
    """The bundle's bundle.toml in the project `root`."""
    folder = root / "bundles" / bundle.name
    folder.mkdir(parents=True)
    fields = msgspec.to_builtins(bundle)
    (folder / "bundle.toml").write_text("".join(f"{name} = {_toml(value)}\n" for name, value in fields.items()))


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items() if item is not None) + "}"
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, list | tuple) else json.dumps(value)


SAMPLE = SampleSource(7)


def draw(folder: Path, seed: int) -> Path:
    """`folder` with sample weights that need no torch."""
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    (folder / "sub" / FILE).write_bytes(Random(seed).randbytes(1000))
    return folder


def refuse_to_draw(folder: Path, seed: int) -> Path:
    raise AssertionError("sample weights were drawn")


@dataclass
class Downloads:
    """Downloads into one store, as the fetcher makes them, and what is in the store afterwards."""

    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def store(self) -> BlobStore:
        # No folder, so every digest is taken anew.
        return BlobStore(self.folder, Digests(Path("/dev/null")))

    def get(self, source: Source, content: bytes = WEIGHTS, path: str = FILE, *, sized: bool = True) -> Blob:
        expected = RemoteFile(len(content) if sized else None, sha256(content))
        return self.store.download(source, path, expected, Output(quiet=True).progress(None, ""), self.stop)

    def partial(self, content: bytes = WEIGHTS) -> Path:
        path = self.folder / "partial" / sha256(content)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def kept(self) -> list[str]:
        """Every file in the store but the locks, by its folder and name."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".lock")
        return sorted(path.relative_to(self.folder).as_posix() for path in files)


def record_digest(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def make_wheel(
    folder: Path,
    files: Mapping[str, bytes],
    *,
    record: str | None = "",
    links: Mapping[str, str] | None = None,
    compression: int = zipfile.ZIP_DEFLATED,
) -> Path:
    """`small_model-1.0-py3-none-any.whl` in `folder`: `files` and symbolic `links` by name, with the RECORD that belongs to it;
    another text for `record` in its place, or none of it for None."""
    info = "small_model-1.0.dist-info"
    content = {
        **files,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = "".join(f"{name},{record_digest(data)},{len(data)}\n" for name, data in content.items())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
        for name, target in (links or {}).items():
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, target)
        if record is not None:
            archive.writestr(f"{info}/RECORD", record or f"{lines}{info}/RECORD,,\n")
    return path


@dataclass
class Asked:
    """A request to the web server, and how many bytes of body it was sent."""

    method: str
    path: str
    range: str | None
    agent: str
    sent: int = 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may go away in the middle of an answer; what a test misses for another reason, it finds missing."""


class Web:
    """A web server on loopback: `pages` by path; `ranges` says whether it serves parts; `redirects` by path.

    `interfere(handler)` may answer a request in its own way and return True.
    """

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.ranges = True
        self.log: list[Asked] = []
        self.interfere: Callable[[BaseHTTPRequestHandler], bool] = lambda handler: False
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web._answer(self, with_body=True)

            def do_HEAD(self) -> None:
                web._answer(self, with_body=False)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def sent(self, path: str, agent: str = "") -> int:
        """Bytes of body sent for `path` to clients whose name begins with `agent`."""
        return sum(asked.sent for asked in self.log if asked.path == path and asked.agent.startswith(agent))

    def _answer(self, handler: BaseHTTPRequestHandler, with_body: bool) -> None:
        path = handler.path.removeprefix("/")
        wanted = handler.headers.get("range")
        asked = Asked(handler.command, path, wanted, handler.headers.get("user-agent", ""))
        self.log.append(asked)
        if self.interfere(handler):
            return
        content, status, headers = self.pages.get(path), 200, {}
        if path in self.redirects:
            content, status, headers = b"", 302, {"Location": self.redirects[path]}
        elif content is None:
            content, status = b"not here", 404
        elif self.ranges and wanted and (match := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)):
            first, last = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
            if first >= len(content):
                content, status = b"", 416
            else:
                status, headers = 206, {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
                content = content[first : last + 1]
        handler.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            handler.send_header(name, value)
        if path.startswith("simple/"):
            handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        if with_body:
            asked.sent = len(content)
            handler.wfile.write(content)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Web:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
