"""A project with bundles at the local hub, commands run on it, and what must hold after every fault."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.exporter import source_files
from tests.hub import Hub

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60


def environment(**more: str) -> dict[str, str]:
    """This process's environment without settings of the hub's client, of pip and of modelbake; one thread for each kernel."""
    foreign = ("HF_", "PIP_", "MODELBAKE_", "WEIGHTS", "HUGGING")
    clean = {n: v for n, v in os.environ.items() if not n.startswith(foreign) and not n.upper().endswith("_PROXY")}
    fixed = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_NO_INDEX": "1", "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return clean | fixed | {"PYTHONPATH": path} | more


@dataclass(frozen=True)
class Done:
    """A command that ended: its exit code (negative: the signal), both outputs, and its changes of the file system in order."""

    code: int
    out: str
    err: str
    changes: list[str] = field(default_factory=list)

    def succeeded(self) -> Done:
        assert self.code == 0, self.err
        assert "Traceback" not in self.err
        return self

    def failed(self, code: int, *words: str) -> Done:
        """Exit `code` and one message, which holds the words."""
        assert self.code == code, (self.code, self.err)
        assert "Traceback" not in self.err, self.err
        assert [line.startswith("error: ") for line in self.err.splitlines()].count(True) == 1, self.err
        for word in words:
            assert word in self.err, self.err
        return self

    def died(self) -> Done:
        assert self.code == -9, (self.code, self.err)
        return self


class Server:
    """tests/faults/driver.py, which runs commands with the small family."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0
        self.injected = 0
        command = [sys.executable, "-m", "tests.faults.driver"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdin=pipe, stdout=pipe, text=True)

    def start(
        self, words: tuple[str, ...], environ: dict[str, str], fault: dict[str, Any] | None, file_limit: int
    ) -> Running:
        self._number += 1
        self.injected += bool(file_limit or (fault or {}).get("kind"))
        files = {name: str(self._folder / f"{self._number}.{name}") for name in ("out", "err", "trace")}
        if file_limit:
            # The limit would meet it too.
            files["trace"] = os.devnull
        for path in files.values():
            Path(path).touch()
        order = {"words": words, "environ": environ, "fault": fault or {}, "file_limit": file_limit, **files}
        return Running(self, self._ask({"do": "start", **order})["pid"], files)

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(order)}\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate()


@dataclass
class Running:
    """A command under way."""

    server: Server
    pid: int
    files: dict[str, str]

    @property
    def changes(self) -> list[str]:
        return Path(self.files["trace"]).read_text().splitlines()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, (self.changes[-3:], Path(self.files["err"]).read_text())
            time.sleep(0.005)

    def wait_for_lock(self, name: str) -> None:
        """Until it has asked for a lock file of that name again and again and for nothing else: it waits there."""

        def waits() -> bool:
            last = self.changes[-3:]
            return len(last) == 3 and len(set(last)) == 1 and last[0].endswith(name)

        self.wait_until(waits)

    def kill(self) -> Done:
        os.kill(self.pid, 9)
        return self.wait().died()

    def wait(self) -> Done:
        code = self.server._ask({"do": "wait", "pid": self.pid})["code"]
        out, err = (Path(self.files[name]).read_text() for name in ("out", "err"))
        return Done(code, out, err, self.changes)


DEFINITION = """schema_version = 1
name = "{name}"
version = "1.0.0"
description = "made for a test"
licence = "MIT"
pinned = true
[model]
kind = "{kind}"
model = "{name}"
{model}
{sources}
{files}
"""


@dataclass
class Project:
    """Folders of one test, a hub, and commands on them."""

    folder: Path
    hub: Hub
    server: Server
    more: dict[str, str] = field(default_factory=dict)
    sources: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def environ(self) -> dict[str, str]:
        return (
            environment(
                MODELBAKE_ROOT=str(self.folder / "project"),
                MODELBAKE_CACHE=str(self.cache),
                MODELBAKE_MODELS=str(self.models),
                HF_ENDPOINT=self.hub.endpoint,
                HF_HOME=str(self.folder / "client"),
            )
            | self.more
        )

    def define(
        self,
        name: str = "small",
        seed: int = 1,
        *,
        files: dict[str, bytes] | None = None,
        sources: str = "",
        sample: bool = False,
        kind: str = "text_encoder",
        model: str = "max_tokens = 5",
        sizes: bool = True,
    ) -> None:
        """A bundle of `files`, at the hub unless `sources` says where, pinned by their digests."""
        files = source_files(seed) if files is None else files
        self.sources[name] = files
        if not sources:
            repo = self.hub.add_repo(f"org/{name}", files)
            sources = f'[[sources]]\ntype = "hub"\nrepository = "org/{name}"\nrevision = "{repo.branches["main"]}"\n'
        if sample:
            sources += f'[[sources]]\ntype = "sample"\nseed = {seed}\n'
        pins = "".join(
            f'[[files]]\npath = "{path}"\nsha256 = "{hashlib.sha256(content).hexdigest()}"\n'
            + (f"size = {len(content)}\n" if sizes else "")
            for path, content in files.items()
        )
        text = DEFINITION.format(name=name, kind=kind, model=model, sources=sources, files=pins)
        folder = self.folder / "project" / "bundles" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bundle.toml").write_text(text)

    def real(self, *words: str) -> Done:
        """`python -m modelbake` as a user calls it."""
        done = subprocess.run(
            [sys.executable, "-m", "modelbake", *words],
            cwd=self.folder, env=self.environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str, fault: dict[str, Any] | None = None, file_limit: int = 0) -> Running:
        """The command with the small family; `fault` as injection.Fault has it, below this test's folder."""
        below = {"below": str(self.folder), **(fault or {})}
        return self.server.start(words, self.environ, below, file_limit)

    def run(self, *words: str, fault: dict[str, Any] | None = None, file_limit: int = 0) -> Done:
        return self.start(*words, fault=fault, file_limit=file_limit).wait()

    def reset(self, to: Path | None = None) -> None:
        """Empty cache and models, or those kept by `keep`."""
        for name in ("cache", "models"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            if to is not None:
                shutil.copytree(to / name, self.folder / name)

    def keep(self) -> Path:
        """Copies of cache and models as they are now."""
        to = self.folder / "kept"
        for name in ("cache", "models"):
            shutil.copytree(self.folder / name, to / name)
        return to

    def listed(self) -> list[str]:
        """The bundles in the manifest, every file of which is there and has the digest that it lists."""
        path = self.models / "model_manifest.json"
        if not path.exists():
            return []
        names = []
        for entry in json.loads(path.read_text())["bundles"]:
            for ref in entry["files"]:
                content = (self.models / ref["path"]).read_bytes()
                assert hashlib.sha256(content).hexdigest() == ref["sha256"], ref["path"]
            names.append(entry["name"])
        return sorted(names)

    def contents(self) -> dict[str, str]:
        """Every file of the models folder, hidden ones too, with its digest."""
        files = (path for path in self.models.rglob("*") if path.is_file())
        digests = {path.relative_to(self.models).as_posix(): hashlib.sha256(path.read_bytes()) for path in files}
        return {path: digest.hexdigest() for path, digest in sorted(digests.items())}

    def lacking(self, name: str = "small") -> int:
        """Bytes of the bundle's source files that are in the cache neither whole nor in part."""
        missing = 0
        for content in self.sources[name].values():
            digest = hashlib.sha256(content).hexdigest()
            whole, partial = self.cache / "blobs" / "sha256" / digest, self.cache / "blobs" / "partial" / digest
            if whole.exists():
                assert hashlib.sha256(whole.read_bytes()).hexdigest() == digest
            else:
                missing += len(content) - (partial.stat().st_size if partial.exists() else 0)
        return missing

    def results(self, step: str) -> list[Path]:
        """The results of a step that a reader would take."""
        folder = self.cache / "steps" / step
        return [path for path in folder.glob("*") if path.is_dir() and not path.suffix] if folder.is_dir() else []

    def remains(self) -> list[str]:
        """What no finished command may leave: half-made results, half-copied files, half-drawn weights."""
        found = [*self.cache.glob("steps/*/*.partial"), *self.cache.glob("sources/*/.*"), *self.models.glob("**/.*")]
        found += [path for path in self.cache.glob("blobs/partial/*") if path.suffix != ".lock"]
        return [path.relative_to(self.folder).as_posix() for path in found]

    def sent(self) -> int:
        """Bytes of files that the hub has sent so far."""
        answers = [request for request in self.hub.log if request.endpoint in ("cdn", "resolve-cache")]
        return sum(request.sent for request in answers if request.method == "GET")

    def recovers(self, *words: str, name: str = "small") -> Done:
        """The command again: it succeeds, transfers what was missing and nothing else, and leaves nothing half-made."""
        lacking, before = self.lacking(name), self.sent()
        done = self.run(*words).succeeded()
        assert self.sent() - before == lacking
        assert self.remains() == []
        return done
