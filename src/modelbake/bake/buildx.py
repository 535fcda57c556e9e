"""docker buildx bake as a process: its stream of events into lines, times per target, and one error with the step's own exit code."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import IO, Any

from modelbake.bake.docker import last_line
from modelbake.bake.host import HostInputs
from modelbake.errors import MachineError, ModelbakeError, UnknownNameError
from modelbake.output import out

# A cancelled step of another target ends in other words, so the anchor leaves it out.
_EXIT_CODE = re.compile(r"did not complete successfully: exit code: (\d+)$")
_OWN_STEPS = ("setup_models_docker.sh", "modelbake layers")
_TAIL_LINES = 25
# By SIGKILL, which is how the kernel ends what takes too much memory, or by SIGTERM.
_KILLED = (137, 143)


class BuildError(ModelbakeError):
    """A build step failed; `exit_code` is the step's own where the step is ours, else 7."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class _Vertex:
    name: str
    started: str | None = None
    completed: str | None = None
    cached: bool = False
    error: str = ""
    finished_lines: list[str] = field(default_factory=list)
    unfinished: bytes = b""

    @property
    def log(self) -> list[str]:
        """What the step said so far, by lines, without the empty ones."""
        return self.finished_lines + _lines(self.unfinished)

    def add_log(self, data: bytes) -> list[str]:
        """Take a piece of the log in, and return its warnings: the lines that say so with those that follow in the piece.

        A piece may end anywhere in a line, even in a character.
        """
        whole, _, self.unfinished = (self.unfinished + data).rpartition(b"\n")
        lines = _lines(whole)
        self.finished_lines += lines
        warnings = dropwhile(lambda line: "WARNING: " not in line, lines)
        # The step's error is told once, by whoever sees it fail.
        return list(takewhile(lambda line: not line.startswith("error: "), warnings))


@dataclass
class Events:
    """The state of a build, put together from BuildKit's events."""

    targets: tuple[str, ...]
    vertexes: dict[str, _Vertex] = field(default_factory=dict)

    def add(self, event: dict[str, Any]) -> list[str]:
        """Take one event in, and return the lines that a person should see of it."""
        lines = []
        for new in event.get("vertexes") or ():
            lines += self._add_vertex(new)
        for entry in event.get("logs") or ():
            vertex = self.vertexes.get(entry["vertex"])
            if vertex is not None:
                lines += vertex.add_log(base64.b64decode(entry["data"]))
        return lines

    def _add_vertex(self, new: dict[str, Any]) -> list[str]:
        vertex = self.vertexes.setdefault(new["digest"], _Vertex(new["name"]))
        was_done = vertex.completed is not None
        vertex.started = new.get("started") or vertex.started
        vertex.completed = new.get("completed") or vertex.completed
        vertex.cached = vertex.cached or bool(new.get("cached"))
        vertex.error = new.get("error") or vertex.error
        worth_it = not vertex.cached and not vertex.error and (" RUN " in vertex.name or seconds(vertex) >= 1)
        if not vertex.completed or was_done or not worth_it:
            return []
        return [f"{seconds(vertex):6.1f} s  {_short(vertex.name)}"]

    def seconds_by_target(self) -> dict[str, float]:
        """How long the steps of each target took, cached ones not counted; a step that targets share counts for one of them."""
        times = dict.fromkeys(self.targets, 0.0)
        for vertex in self.vertexes.values():
            target = self._target_of(vertex.name)
            if target in times and not vertex.cached:
                times[target] += seconds(vertex)
        return times

    def failed(self) -> _Vertex | None:
        """The step whose own failure ended the build."""
        return next((vertex for vertex in self.vertexes.values() if _EXIT_CODE.search(vertex.error)), None)

    def _target_of(self, name: str) -> str:
        if len(self.targets) == 1:
            return self.targets[0]
        return name[1:].partition("]")[0].partition(" ")[0] if name.startswith("[") else ""


def _lines(data: bytes) -> list[str]:
    return [line.rstrip() for line in data.decode(errors="replace").splitlines() if line.strip()]


def _short(name: str) -> str:
    """A step's name without its mounts, on one line."""
    return re.sub(r"\s+", " ", re.sub(r"--mount=\S+\s+", "", name))[:150]


def seconds(vertex: _Vertex) -> float:
    """How long a step ran; 0 where it has not ended, or began anew since."""
    if vertex.started is None or vertex.completed is None:
        return 0.0
    # Nanoseconds, which fromisoformat does not take.
    first, last = (
        datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text)) for text in (vertex.started, vertex.completed)
    )
    return max(0.0, (last - first).total_seconds())


@dataclass(frozen=True)
class Plan:
    """What bake would do: all targets by name, and those of them that were asked for and not merely needed."""

    targets: dict[str, dict[str, Any]]
    wanted: tuple[str, ...]


def plan_bake(root: Path, names: tuple[str, ...]) -> Plan:
    """The plan for `names` (default: the default group), from `docker buildx bake --print`; UnknownNameError for other names."""
    command = ["docker", "buildx", "bake", "--print", *names]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = last_line(done.stderr)
        if "failed to find target" in said:
            raise UnknownNameError(
                f"docker-bake.hcl has no target {said.rpartition(' ')[2]!r}; its first lines name the groups."
            )
        raise MachineError(f"docker buildx bake cannot plan: {said}. Look at docker-bake.hcl in {root}.")
    printed = json.loads(done.stdout)
    return Plan(printed["target"], tuple(_expand(printed.get("group", {}), names or ("default",))))


def _expand(groups: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    """The targets behind names of targets and groups, in order and once each."""
    found: dict[str, None] = {}
    for name in names:
        members = groups.get(name, {}).get("targets")
        found |= dict.fromkeys(_expand(groups, tuple(members)) if members else [name])
    return list(found)


def bake(root: Path, plan: Plan, overrides: list[str], host: HostInputs, no_cache: bool) -> Events:
    """Run the build, say what happens, and return its events; BuildError or MachineError where it fails."""
    with tempfile.TemporaryDirectory(prefix="modelbake-") as folder:
        command = ["docker", "buildx", "bake", "--progress=rawjson", *(["--no-cache"] if no_cache else [])]
        for override in [*overrides, *_host_overrides(host, Path(folder))]:
            command += ["--set", override]
        environ = os.environ | ({"HF_TOKEN": host.hub_token} if host.hub_token else {})
        # What is merely needed stays in the build cache; without this the docker driver would load each of them as an image.
        environ["BUILDX_NO_DEFAULT_LOAD"] = "1"
        for target in plan.wanted:
            if not plan.targets[target].get("output"):
                command += ["--set", f"{target}.output=type=docker"]
        events = Events(tuple(plan.targets))
        progress = out.progress(None, "bake", "step")
        with subprocess.Popen(
            [*command, *plan.wanted],
            cwd=root,
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            try:
                rest = ""
                for event in read_events(process.stderr):
                    if isinstance(event, str):
                        rest = event
                        continue
                    for line in events.add(event):
                        progress.update(1)
                        (out.warn if line.startswith("WARNING: ") else out.info)(line.removeprefix("WARNING: "))
            except BaseException:
                process.terminate()
                raise
            finally:
                progress.close()
    if process.returncode != 0:
        raise _failure(events, rest)
    return events


def read_events(stream: IO[str]) -> Iterator[dict[str, Any] | str]:
    """The JSON objects of a stream, however they are laid out; all the other lines come as text at the end."""
    decoder = json.JSONDecoder()
    text = ""
    buffer = ""
    for line in stream:
        buffer += line
        if buffer.startswith("{") and "}" not in line:
            continue
        while buffer:
            if buffer.startswith("{"):
                try:
                    event, end = decoder.raw_decode(buffer)
                except json.JSONDecodeError as error:
                    if error.pos >= len(buffer.rstrip()):
                        # The rest of the object is still to come.
                        break
                else:
                    yield event
                    buffer = buffer[end:].removeprefix("\n")
                    continue
            first, newline, buffer = buffer.partition("\n")
            text += first + newline
    yield text + buffer


def _host_overrides(host: HostInputs, folder: Path) -> list[str]:
    overrides = []
    if host.pip_conf is not None:
        path = folder / "pip.conf"
        path.touch(mode=0o600)
        path.write_text(host.pip_conf, encoding="utf-8")
        overrides.append(f"*.secrets=id=pipconf,src={path}")
    if host.ca_bundle is not None:
        overrides.append(f"*.secrets=id=ca,src={host.ca_bundle}")
    if host.hub_token is not None:
        overrides.append("*.secrets=id=hf_token,env=HF_TOKEN")
    if host.wheels is not None:
        overrides.append(f"*.contexts.wheels={host.wheels}")
    return overrides


def _failure(events: Events, rest: str) -> ModelbakeError:
    vertex = events.failed()
    if vertex is None:
        lines = [line for line in rest.splitlines() if line.strip()] or ["it said nothing"]
        return MachineError("docker buildx bake failed: " + "\n".join(lines[-_TAIL_LINES:]))
    match = _EXIT_CODE.search(vertex.error)
    code = int(match.group(1)) if match else 1
    own = any(step in vertex.name for step in _OWN_STEPS)
    log = vertex.log
    starts = [index for index, line in enumerate(log) if line.startswith("error: ")]
    if own and starts:
        # The step's own one message; the rest of its log was shown or is of no use.
        message = "\n".join(log[starts[-1] :]).removeprefix("error: ")
        return BuildError(f"{vertex.name.partition(']')[0]}] {message}", code)
    tail = "\n".join(log[-_TAIL_LINES:])
    killed = code in _KILLED
    advice = "\nIt was killed: free some memory, or build one bundle at a time." if killed else ""
    return BuildError(
        f"The build step {vertex.name!r} failed with exit code {code}:\n{tail}{advice}", 1 if own and not killed else 7
    )
