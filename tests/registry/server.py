"""docker-registry (CNCF distribution) as a process of the test's: started, ended, killed in the middle, its files in reach."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.registry.keys import Pair
from tests.registry.tools import free_port, tool
from tests.registry.wire import answers

PATIENCE = 30
# A user for Registry(htpasswd=True). The registry takes bcrypt alone; this is its cheapest, of PASSWORD.
USER, PASSWORD = "baker", "open sesame"
_HTPASSWD = f"{USER}:$2b$04$4HfSNQOsIo9mCanE0.VgDe8kKTEVshZLDJFNVXepA5O88er1pFCWW\n"

# Apache's combined format, which the registry writes for every answer when it is finished.
_LINE = re.compile(r'^\S+ \S+ \S+ \[[^]]+\] "(?P<method>[A-Z]+) (?P<target>\S+) [^"]*" (?P<status>\d+) (?P<sent>\d+)')


@dataclass(frozen=True)
class Access:
    """A request in the registry's own log: it is there when its answer was finished, and not when the registry was killed before."""

    method: str
    path: str
    query: str
    status: int
    sent: int
    """Bytes of the answer's body."""


@dataclass
class Registry:
    """A registry on a loopback port with its storage below `folder`, as a context manager.

    htpasswd: whether it asks for USER and PASSWORD. tokens: a token server (tests.registry.tokens) that it sends clients to, and
    that server's key pair. tls: a key pair for https.
    """

    folder: Path
    htpasswd: bool = False
    tokens: tuple[str, Pair] | None = None
    tls: Pair | None = None
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """What stands before the repository in a reference."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    def __enter__(self) -> Registry:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and wait until it answers; RuntimeError with its last words where it does not, OSError where the port is taken."""
        assert self._process is None, "it runs already"
        # Another server on the port would answer in its place.
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
        self.storage.mkdir(parents=True, exist_ok=True)
        config = self.folder / "config.json"
        config.write_text(json.dumps(self._config()))  # JSON is YAML too
        with self._log.open("ab") as log, self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [tool("docker-registry"), "serve", str(config)], stdout=log, stderr=errors, cwd=self.folder, env={}
            )
        deadline = time.monotonic() + PATIENCE
        while not answers(self.port, secure=self.tls is not None):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"docker-registry did not start: {self._errors.read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it in order; nothing where it does not run."""
        self._end(lambda process: process.terminate())

    def kill(self) -> None:
        """End it at once (SIGKILL), in the middle of whatever it does; nothing where it does not run."""
        self._end(lambda process: process.kill())

    def restart(self) -> None:
        """SIGKILL, and a new process with the same storage on the same port."""
        self.kill()
        self.start()

    def _end(self, how: Any) -> None:
        process, self._process = self._process, None
        if process is not None:
            how(process)
            process.wait()

    def blob_file(self, digest: str) -> Path:
        """The file that holds the bytes of the blob or manifest `sha256:HEX`, whether it is there or not."""
        hexadecimal = digest.removeprefix("sha256:")
        return self._data / "blobs/sha256" / hexadecimal[:2] / hexadecimal / "data"

    def blobs(self) -> dict[str, int]:
        """Digest and size of every blob and manifest that the registry has bytes of, in whatever repository."""
        files = (self._data / "blobs/sha256").glob("*/*/data")
        return {f"sha256:{file.parent.name}": file.stat().st_size for file in files}

    def uploads(self) -> list[Path]:
        """The folders of uploads that were begun and neither finished nor cancelled."""
        return [path.parent for path in self._data.glob("repositories/**/_uploads/*/startedat")]

    @property
    def log(self) -> list[Access]:
        """All requests so far, of earlier processes too. An answer is in it a moment after the client has it."""
        found = (_LINE.match(line) for line in self._log.read_text(errors="replace").splitlines())
        return [_access(match) for match in found if match]

    @property
    def _data(self) -> Path:
        return self.storage / "docker/registry/v2"

    @property
    def _log(self) -> Path:
        return self.folder / "access.log"

    @property
    def _errors(self) -> Path:
        return self.folder / "errors.log"

    def _config(self) -> dict[str, Any]:
        # Uploads that were begun before a restart are known after it, as where several registries share a storage.
        http: dict[str, Any] = {"addr": self.host, "secret": "tests"}
        if self.tls:
            http["tls"] = {"certificate": str(self.tls.certificate), "key": str(self.tls.key)}
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": False}},
            # No cache of descriptors: what is changed on the disk shall be seen.
            "storage": {"filesystem": {"rootdirectory": str(self.storage)}, "delete": {"enabled": True}},
            "http": http,
        }
        if self.htpasswd:
            path = self.folder / "htpasswd"
            path.write_text(_HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(path)}}
        if self.tokens:
            realm, pair = self.tokens
            config["auth"] = {
                "token": {
                    "realm": realm,
                    "service": "tests",
                    "issuer": "tests",
                    "rootcertbundle": str(pair.certificate),
                }
            }
        return config


def _access(match: re.Match[str]) -> Access:
    path, _, query = match["target"].partition("?")
    return Access(match["method"], urllib.parse.unquote(path), query, int(match["status"]), int(match["sent"]))
