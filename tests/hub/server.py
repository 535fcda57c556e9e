"""The hub itself: its two ports (hub and CDN), its repositories, faults and log."""

import contextlib
import os
import socket
import socketserver
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.hub.faults import Faults
from tests.hub.log import Log
from tests.hub.repo import LFS_PATTERNS, LFS_THRESHOLD, Repo, Source
from tests.hub.wire import Handler


class Listener(socketserver.ThreadingTCPServer):
    """One listening port. HTTPServer would ask DNS for its own name; this does not."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], hub: "Hub", *, is_cdn: bool) -> None:
        self.hub, self.is_cdn = hub, is_cdn
        self.open: set[socket.socket] = set()
        self.reset: set[socket.socket] = set()
        super().__init__(address, Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def process_request(self, request, client_address) -> None:  # type: ignore[no-untyped-def]
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request) -> None:  # type: ignore[no-untyped-def]
        self.open.discard(request)
        if request in self.reset:  # an orderly shutdown would say goodbye before the reset
            self.reset.discard(request)
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request, client_address) -> None:  # type: ignore[no-untyped-def]
        error = sys.exc_info()[1]
        # Clients go away in the middle of an answer, and so they may; anything else is a bug of the hub.
        expected = self.hub.closing.is_set() or isinstance(error, (ConnectionError, TimeoutError))
        if error is not None and not expected:
            self.hub.errors.append(error)

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()
        for connection in list(self.open):
            with contextlib.suppress(OSError):  # its handler was quicker
                connection.shutdown(socket.SHUT_RDWR)


class Hub:
    """A local Hugging Face hub, running from construction until `close()`; also a context manager.

    host: address to bind; "0.0.0.0" or a bridge address lets containers in. port, cdn_port: 0 picks free ones.
    page_size: entries per page of a tree listing. gzip: compress text of 1 kB and more as the real hub does.
    Leaving the `with` block raises the first error that a handler met, so that a bug of the hub fails the test.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, cdn_port: int = 0, page_size: int = 1000, gzip: bool = True
    ) -> None:
        self.host, self.page_size, self.gzip = host, page_size, gzip
        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.faults = Faults()
        self.log = Log()
        self.errors: list[BaseException] = []
        self.closing = threading.Event()
        self._cdn = Listener((host, cdn_port), self, is_cdn=True)
        try:
            self._hub = Listener((host, port), self, is_cdn=False)
        except OSError:
            self._cdn.stop()
            raise

    @property
    def port(self) -> int:
        return self._hub.port

    @property
    def cdn_port(self) -> int:
        return self._cdn.port

    @property
    def endpoint(self) -> str:
        """What to set as HF_ENDPOINT on this machine."""
        return self.endpoint_at("127.0.0.1" if self.host in ("0.0.0.0", "") else self.host)

    def endpoint_at(self, host: str) -> str:
        """What to set as HF_ENDPOINT where this machine is known as `host`, such as in a container."""
        return f"http://{host}:{self.port}"

    def environ(self, home: Path, token: str | None = None) -> dict[str, str]:
        """This process's environment for a child that is to talk to this hub alone, with its cache under `home`.

        Every HF_*, HUGGING* and *_PROXY variable of this process is left out.
        """
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING")) and not name.upper().endswith("_PROXY")
        }
        mine = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        return kept | mine | ({"HF_TOKEN": token} if token is not None else {})

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, Source] | Path,
        *,
        commit: str | None = None,
        private: str | None = None,
        gated: str | None = None,
        refs: Mapping[str, str] | None = None,
        lfs_patterns: Sequence[str] = LFS_PATTERNS,
        lfs_threshold: int = LFS_THRESHOLD,
    ) -> Repo:
        """Add a repository with one commit of `files`: contents or paths on disk by path, or a folder.

        commit: 40 hex digits; by default git's own id for this content. private, gated: the token that alone sees the
        repository, or that alone may download from it. refs: branches, by default {"main": commit}.
        More commits: `Repo.add_commit`. More refs: `Repo.branches`, `Repo.tags`.
        """
        repo = Repo(repo_id, private, gated, lfs_patterns, lfs_threshold)
        made = repo.add_commit(files, commit=commit)
        if refs is not None:
            unknown = {name: to for name, to in refs.items() if to not in repo.commits}
            if unknown:
                raise ValueError(f"refs of {repo_id} name commits other than {made}: {unknown}; add those first")
            repo.branches = dict(refs)
        self.repos[repo_id] = repo
        return repo

    def rename(self, old: str, new: str) -> None:
        """Let `old` redirect (307) to the repository `new`, as after a rename. An `old` that exists moves."""
        self.renamed[old] = new
        if old in self.repos:
            repo = self.repos.pop(old)
            repo.id = new
            self.repos[new] = repo

    def add_token(self, token: str, user: str = "user") -> str:
        """Make a token known that opens nothing by itself. Those of private and gated repositories are known anyway."""
        self.tokens[token] = user
        return token

    def known_tokens(self) -> dict[str, str]:
        """User names by token."""
        opening = {token for repo in self.repos.values() for token in (repo.private, repo.gated) if token is not None}
        return dict.fromkeys(opening, "user") | self.tokens

    def close(self) -> None:
        """Stop both ports and end every connection, hanging ones too."""
        if not self.closing.is_set():
            self.closing.set()
            self._hub.stop()
            self._cdn.stop()

    def __enter__(self) -> "Hub":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        if error is None and self.errors:
            raise self.errors[0]
