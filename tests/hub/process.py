"""The hub as a process of its own, for tests that must outlive or kill it."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from tests.hub.log import Log, Request

_ROOT = Path(__file__).parents[2]


class HubProcess:
    """`python -m tests.hub FOLDER OPTIONS…` as a context manager: ready when entered, stopped when left.

    endpoint: what to set as HF_ENDPOINT. commits: repository to commit id. log: all requests, once stopped.
    Raises RuntimeError with the process's words when it does not start.
    """

    def __init__(self, folder: Path, *options: str, log: Path | None = None) -> None:
        self._log = log
        logged = [] if log is None else ["--log", str(log)]
        command = [sys.executable, "-m", "tests.hub", str(folder), *options, *logged]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=_ROOT, stdout=pipe, stderr=pipe, text=True)
        assert self.process.stdout is not None
        lines: list[str] = []
        for line in self.process.stdout:
            if line == "ready\n":
                break
            lines.append(line.strip())
        else:
            raise RuntimeError(f"the hub did not start: {self.process.communicate()[1]}")
        self.endpoint = lines[0]
        self.commits = dict(line.split("@") for line in lines[1:])
        self.log = Log()

    def __enter__(self) -> "HubProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process in order, and read its log."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate()
        if self._log is not None and self._log.exists() and not self.log:
            self.log.extend(Request(**json.loads(line)) for line in self._log.read_text().splitlines())

    def kill(self) -> None:
        """End the process at once, in the middle of whatever it sends; its log is lost."""
        self.process.kill()
        self.process.communicate()
