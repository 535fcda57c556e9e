#!/usr/bin/env python3
"""push, pull and graft of large files against a local docker-registry, beside the oras CLI; writes docs/bench/registry.md and .svg."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import measure

sys.path.insert(0, str(measure.ROOT))

from modelbake.digests import Digests
from tests.registry.bundles import NAME, models_folder
from tests.registry.proxy import FaultyProxy
from tests.registry.raw import CONFIG, LAYER, MANIFEST, Repository
from tests.registry.server import Registry
from tests.registry.tools import tool

PACKAGES = ("modelbake", "urllib3")
OURS, ORAS = "modelbake", "oras"
WORDS = {"wall": "wall", "cpu": "processor"}
MB = 1e6
# What Dockerfile and graft add the bundle to; its layer is as large as a small Python with onnxruntime.
RUNTIME_BYTES = 200_000_000

# Runs argv[2:] in the folder argv[1] and tells wall seconds, processor seconds and peak memory. A process of its own, because a
# child's peak counts that of the process it was started from.
_RUN = """
import json, os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[2:], cwd=sys.argv[1], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
errors = process.stderr.read()
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - began
print(json.dumps([seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status), errors.decode()]))
"""


@dataclass(frozen=True)
class Cost:
    """A command: seconds of wall and of processor time, and the most bytes that were resident."""

    wall: float
    cpu: float
    peak: int


@dataclass
class Costs:
    """One command run several times."""

    runs: list[Cost] = field(default_factory=list)

    def wall(self) -> float:
        return measure.median([run.wall for run in self.runs])

    def cpu(self) -> float:
        return measure.median([run.cpu for run in self.runs])

    def peak(self) -> int:
        return max(run.peak for run in self.runs)

    def row(self, name: str) -> list[str]:
        walls, cpus = ([getattr(run, kind) for run in self.runs] for kind in ("wall", "cpu"))
        return [name, measure.shown(walls), measure.shown(cpus), f"{self.peak() / MB:.0f} MB"]


class Machine:
    """A folder on the disk with caches of its own, and commands that are measured on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"

    def forget(self) -> None:
        """What modelbake remembers of digests and registries."""
        shutil.rmtree(self.folder / "cache", ignore_errors=True)

    def as_built(self) -> None:
        """What `modelbake build` leaves remembered: the digests of the files that it wrote, and nothing of layers or registries."""
        self.forget()
        digests = Digests(self.folder / "cache")
        for path in self.models.rglob("*"):
            if path.is_file():
                digests.sha256(path)

    def run(self, *words: str | Path, cwd: Path | None = None, expected: int = 0) -> Cost:
        """Measure a command; the bench ends where it fails."""
        environ = {
            **os.environ,
            "MODELBAKE_CACHE": str(self.folder / "cache"),
            "MODELBAKE_STORE": str(self.folder / "store"),
            "HOME": str(self.folder),
            "PYTHONPATH": str(measure.ROOT / "src"),
        }
        # An installed package is compiled once; where this is set the command compiles its own modules at each start.
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, "-I", "-S", "-c", _RUN, str(cwd or self.folder), *map(str, words)]
        done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
        wall, cpu, peak, code, errors = json.loads(done.stdout)
        if code != expected:
            sys.exit(f"{' '.join(map(str, words))} ended with {code}: {errors}")
        return Cost(wall, cpu, peak)

    def modelbake(self, *words: str | Path) -> Cost:
        return self.run(sys.executable, "-m", "modelbake", *words, "--quiet")

    def push(self, host: str) -> Cost:
        return self.modelbake("push", NAME, f"{host}/models/random:1", "--models-dir", self.models)

    def pull(self, host: str, to: Path) -> Cost:
        return self.modelbake("pull", f"{host}/models/random:1", "--to", to)

    def oras_push(self, host: str) -> Cost:
        files = sorted(path.relative_to(self.models) for path in self.models.rglob("*.*") if path.is_file())
        return self.run(tool("oras"), "push", "--plain-http", f"{host}/oras/random:1", *files, cwd=self.models)

    def oras_pull(self, host: str, to: Path) -> Cost:
        return self.run(tool("oras"), "pull", "--plain-http", f"{host}/oras/random:1", "-o", to)


def transfers(machine: Machine, rounds: int) -> dict[str, Costs]:
    """Cold push and pull of both, in turns, each into a registry and a folder that have nothing; then pulls again."""
    found: dict[str, Costs] = {}

    def note(name: str, cost: Cost, counts: bool) -> None:
        if counts:
            found.setdefault(name, Costs()).runs.append(cost)

    to = machine.folder / "pulled"
    for index in range(rounds + 1):
        # The first round fills the page cache.
        counts = index > 0
        subjects: list[tuple[str, Callable[[str], Cost], Callable[[str, Path], Cost]]] = [
            (OURS, machine.push, machine.pull),
            (ORAS, machine.oras_push, machine.oras_pull),
        ]
        for name, push, pull in subjects[:: 1 if index % 2 else -1]:
            machine.as_built()
            shutil.rmtree(to, ignore_errors=True)
            folder = machine.folder / "registry"
            shutil.rmtree(folder, ignore_errors=True)
            os.sync()
            with Registry(folder) as registry:
                note(f"{name} push", push(registry.host), counts)
                note(f"{name} push again", push(registry.host), counts)
                machine.forget()
                os.sync()
                note(f"{name} pull", pull(registry.host, to), counts)
                note(f"{name} pull again", pull(registry.host, to), counts)
                if name == OURS:
                    note("changed", after_a_change(machine, registry.host, to), counts)
    return found


def after_a_change(machine: Machine, host: str, to: Path) -> Cost:
    """A pull after a byte of a pulled file was changed, its size and time stamp kept; the bench ends where it is not put right."""
    pulled = next(path for path in sorted(to.rglob("*.onnx")))
    original = machine.models / pulled.relative_to(to)
    stat = pulled.stat()
    with pulled.open("r+b") as file:
        file.seek(stat.st_size // 2)
        byte = file.read(1)
        file.seek(stat.st_size // 2)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(pulled, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    cost = machine.pull(host, to)
    if subprocess.run(["cmp", "--quiet", pulled, original], check=False).returncode != 0:
        sys.exit(f"{pulled} was changed, and the next pull did not see it.")
    return cost


def bytes_of_a_change(machine: Machine, sizes: Sequence[int]) -> tuple[int, int]:
    """Bytes of blobs that a push sends when nothing is there, and when one file of all was changed since."""
    machine.forget()
    folder = machine.folder / "registry"
    shutil.rmtree(folder, ignore_errors=True)
    with Registry(folder) as registry, FaultyProxy(registry.port) as proxy:
        machine.push(proxy.host)
        first = proxy.pushed()
        proxy.forget()
        models_folder(machine.models, sizes, changed=1)
        machine.push(proxy.host)
        return first, proxy.pushed()


def memory(machine: Machine, size: int) -> dict[str, Cost]:
    """push, pull and pack of one file of that size."""
    shutil.rmtree(machine.models)
    models_folder(machine.models, (size,))
    machine.forget()
    folder, to = machine.folder / "registry", machine.folder / "pulled"
    for path in (folder, to):
        shutil.rmtree(path, ignore_errors=True)
    with Registry(folder) as registry:
        found = {"push": machine.push(registry.host), "pull": machine.pull(registry.host, to)}
    shutil.rmtree(folder)
    shutil.rmtree(to)
    machine.forget()
    found["pack"] = machine.modelbake("pack", NAME, "--models-dir", machine.models)
    shutil.rmtree(machine.folder / "store", ignore_errors=True)
    return found


# ---- graft -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grafts:
    """Seconds of both ways to a new image in the registry, and the bytes of blobs that each sent; no Dockerfile where no engine is."""

    graft: list[float]
    graft_bytes: int
    copy: list[float]
    copy_bytes: int


def grafts(machine: Machine, rounds: int) -> Grafts:
    """A new image of a runtime and the bundle, both in the registry: graft against a Dockerfile that copies."""
    shutil.rmtree(machine.folder / "registry", ignore_errors=True)
    machine.forget()
    seconds: dict[str, list[float]] = {"graft": [], "copy": []}
    sent = {"graft": 0, "copy": 0}
    engine = has_engine()
    if not engine:
        measure.say("no Docker engine answers: the graft stands alone")
    with Registry(machine.folder / "registry") as registry, FaultyProxy(registry.port) as proxy:
        runtime(Repository(registry.url, "runtime"))
        machine.push(registry.host)
        for index in range(rounds + 1):
            for name in ("graft", "copy") if engine else ("graft",):
                # The counts are the first round's, through the proxy; the times are those of the others, without it.
                host = registry.host if index else proxy.host
                proxy.forget()
                if name == "graft":
                    cost = machine.modelbake(
                        "graft", f"{host}/runtime:1", f"{host}/models/random:1", "-t", f"{host}/grafted:{index}"
                    )
                else:
                    cost = dockerfile(machine, host, index)
                if index:
                    seconds[name].append(cost.wall)
                else:
                    sent[name] = proxy.pushed()
    return Grafts(seconds["graft"], sent["graft"], seconds["copy"], sent["copy"])


def runtime(repository: Repository) -> None:
    """A runtime image of one large layer, pushed by hand."""
    from modelbake.oci import layer

    data = os.urandom(RUNTIME_BYTES)
    blob = repository.put_blob(layer.head("opt/runtime", len(data)) + data + layer.tail(len(data)))
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [blob["digest"]]},
        "history": [{"created_by": "bench"}],
    }
    repository.put_manifest(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {**repository.put_blob(json.dumps(config).encode()), "mediaType": CONFIG},
            "layers": [{**blob, "mediaType": LAYER}],
        },
        "1",
    )


def has_engine() -> bool:
    return subprocess.run(["docker", "buildx", "ls"], capture_output=True, check=False).returncode == 0 and (
        subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    )


def dockerfile(machine: Machine, host: str, index: int) -> Cost:
    """Build and push by the engine; a label of its own keeps it from finding the earlier build."""
    folder = machine.folder / "dockerfile"
    folder.mkdir(exist_ok=True)
    text = f"FROM {host}/runtime:1\nCOPY --from={host}/models/random:1 /models /models\nLABEL build={index}\n"
    (folder / "Dockerfile").write_text(text)
    name = f"{host}/copied:{index}"
    command = ["docker", "buildx", "build", "--no-cache", "--push", "--provenance=false", "-t", name, str(folder)]
    home = os.environ.get("HOME", "/root")
    cost = machine.run("env", f"HOME={home}", *command)
    subprocess.run(["docker", "image", "rm", "--force", name], capture_output=True, check=False)
    forget_builds(host)
    return cost


def forget_builds(host: str) -> None:
    """Take the layers of builds from that registry out of the engine's cache: each is as large as the bundle."""
    listed = subprocess.run(["docker", "buildx", "du", "--verbose"], capture_output=True, text=True, check=False).stdout
    for record in listed.split("\n\n"):
        if f"{host}/" in record:
            key = record.split()[1]
            subprocess.run(
                ["docker", "builder", "prune", "--force", "--filter", f"id={key}"], capture_output=True, check=False
            )


# ---- the page --------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each command that count (default 5)")
    parser.add_argument(
        "--size", type=int, default=200_000_000, help="bytes of each of the four files (default 200 MB)"
    )
    parser.add_argument(
        "--large", type=int, default=4 << 30, help="bytes of the file of the memory rows (default 4 GiB; 0: none)"
    )
    parser.add_argument("--folder", type=Path, help="where the files are made (default: the system's temporary folder)")
    parser.add_argument(
        "--graft", action=argparse.BooleanOptionalAction, default=True, help="with the graft, or without"
    )
    asked = parser.parse_args()
    sizes = (asked.size,) * 4
    with tempfile.TemporaryDirectory(prefix="modelbake-bench-", dir=asked.folder) as name:
        machine = Machine(Path(name))
        models_folder(machine.models, sizes)
        measure.say(f"{asked.rounds} rounds of push and pull")
        costs = transfers(machine, asked.rounds)
        measure.say("one changed file")
        sent = bytes_of_a_change(machine, sizes)
        made = None
        if asked.graft:
            measure.say("graft")
            made = grafts(machine, asked.rounds)
        large = {}
        # The file itself, in the registry, and in the folder pulled into or the store.
        if asked.large and shutil.disk_usage(name).free < 3.2 * asked.large:
            measure.say(f"no room for three copies of {asked.large:,} bytes in {name}: no figures of memory")
        elif asked.large:
            measure.say("memory")
            large = memory(machine, asked.large)
    report(costs, sent, made, large, sizes, asked.large, asked.rounds)


def ratio(one: float, other: float) -> str:
    return f"{one / other:.2f} x"


def report(
    costs: dict[str, Costs],
    sent: tuple[int, int],
    made: Grafts | None,
    large: dict[str, Cost],
    sizes: Sequence[int],
    size: int,
    rounds: int,
) -> None:
    """Write the page and its plot."""
    names = [name for name in costs if name != "changed"]
    goals = []
    for kind in ("push", "pull"):
        for what, label in WORDS.items():
            ours, oras = (getattr(costs[f"{name} {kind}"], what)() for name in (OURS, ORAS))
            goals.append([f"cold {kind}, {label}", "≤ 1.0 x oras", ratio(ours, oras)])
    goals += [
        [
            "repeated pull",
            "≤ 0.05 x cold pull",
            ratio(costs[f"{OURS} pull again"].wall(), costs[f"{OURS} pull"].wall()),
        ],
        ["one of four files changed: bytes pushed", f"≤ {1.02 / len(sizes):.3f} of all", f"{sent[1] / sum(sizes):.3f}"],
    ]
    if made:
        goals.append(["graft: bytes of layers sent", "0", layer_bytes(made)])
        if made.copy:
            times = measure.median(made.copy) / measure.median(made.graft)
            goals.append(["graft against COPY --from", "≥ 100 times faster", f"{times:.0f} times"])
    if large:
        peak = max(cost.peak for cost in large.values())
        goals.append([f"peak memory, a file of {size / 1e9:.1f} GB", "≤ 150 MB", f"{peak / MB:.0f} MB"])
    rows = [costs[name].row(name) for name in names]
    rows.append(costs["changed"].row("modelbake pull, a byte of a file changed"))
    more = [
        [f"{name} of {size / 1e9:.1f} GB", f"{cost.wall:.1f} s", f"{cost.cpu:.1f} s", f"{cost.peak / MB:.0f} MB"]
        for name, cost in large.items()
    ]
    if made:
        more.append(["graft", measure.shown(made.graft), "", ""])
        if made.copy:
            more.append(
                [f"Dockerfile's COPY --from, {made.copy_bytes / MB:.0f} MB sent", measure.shown(made.copy), "", ""]
            )
    header = ["", "wall", "processor", "peak memory"]
    measure.page(
        "registry",
        f"""# Registry: push, pull, graft

`make bench-registry` writes this page.

{measure.markdown_table(["", "goal", "here"], goals)}

{measure.markdown_table(header, [*rows, *more])}

![Wall and processor time of push and pull](registry.svg)

docker-registry on loopback, four random files of {sizes[0] / MB:.0f} MB in a bundle; oras pushes and pulls the same files. Each
push goes to an empty registry, of a folder as `modelbake build` leaves it: the digests of the files that it wrote are remembered,
which a folder from elsewhere costs one more pass to check, and nothing of layers. Each pull goes to an empty folder, with nothing
remembered. "Again" is the same command once more. Commands in turns, medians of {rounds} with the fastest and slowest in
brackets, after a round that is not counted. Processor time is the client's own, without the registry's, and a start of Python
is in it. modelbake hashes what it sends and what comes, and has it on the disk (fsync) before it is to be seen. Bytes pushed are
counted by a proxy, in runs of their own.

Machine: {measure.machine(None, PACKAGES)}, {version_of("oras", "version")}, docker-registry {version_of("docker-registry", "--version")}.
""",
    )
    panels = [
        measure.Panel(
            f"{kind}, {label} (s)",
            {name: getattr(costs[f"{name} {kind}"], what)() for name in (OURS, ORAS)},
            {name: spread([getattr(run, what) for run in costs[f"{name} {kind}"].runs]) for name in (OURS, ORAS)},
        )
        for kind in ("push", "pull")
        for what, label in WORDS.items()
    ]
    measure.bars(measure.TO / "registry.svg", panels)


def layer_bytes(made: Grafts) -> str:
    # What is sent besides is the config and the layer of the merged models manifest.
    return "0" if made.graft_bytes < 100_000 else f"{made.graft_bytes:,}"


def spread(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def version_of(name: str, word: str) -> str:
    done = subprocess.run([tool(name), word], capture_output=True, text=True, check=False)
    words = done.stdout.split("\n")[0].split()
    return f"{name} {words[-1]}" if name == "oras" else words[-1]


if __name__ == "__main__":
    main()
