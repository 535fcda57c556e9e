"""What the benches share: subjects run in turns, starts of processes, and the page and plot of the figures."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TO = ROOT / "docs" / "bench"
COLORS = ("#2a7f62", "#9aa0a6", "#c58b2a", "#4a6fa5")

# Starts argv[1:] and waits for its first line. A process of its own, because a child's peak counts that of the process it was
# started from, and a bench that has loaded torch is larger than what it starts.
_STARTER = """
import json, os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
line = process.stdout.readline()
seconds = time.perf_counter() - began
rest = process.stdout.read()
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([line, seconds, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status)]))
"""


@dataclass(frozen=True)
class Start:
    """A process from its start to its first line: the line, the seconds until then, and the peak of its memory (bytes resident)."""

    line: str
    seconds: float
    peak: int


@dataclass(frozen=True)
class Panel:
    """One group of bars: a title with its unit, a value for each name, and for each the lowest and highest seen."""

    title: str
    values: Mapping[str, float]
    spread: Mapping[str, tuple[float, float]] | None = None
    format: str = "%.2f"


def interleaved(
    subjects: Mapping[str, Callable[[], object]], rounds: int, settle: bool = False
) -> dict[str, list[float]]:
    """Seconds of each call, `rounds` for each subject: all run in turns, so that what else the machine does meets them all.

    Every other round goes backwards, and a first round of each is not counted. `settle` is for calls of milliseconds with threads
    of their own: each runs once, uncounted, before it is timed, since the threads of the one before spin on for a while, on
    the same cores, as they would not in a process that has one of them alone.
    """
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for index in range(rounds + 1):
        for name in list(subjects)[:: 1 if index % 2 else -1]:
            if settle:
                subjects[name]()
            began = time.perf_counter()
            subjects[name]()
            if index:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def start(command: Sequence[str], environ: Mapping[str, str] = os.environ) -> Start:
    """Run the command to its end; the bench ends where it fails or prints nothing."""
    starter = [sys.executable, "-I", "-S", "-c", _STARTER, *command]
    done = subprocess.run(starter, env=dict(environ), stdout=subprocess.PIPE, text=True, check=True)
    line, seconds, peak, code = json.loads(done.stdout)
    if code != 0 or not line:
        sys.exit(f"{' '.join(command)} ended with {code} and the first line {line!r}.")
    return Start(line, seconds, peak)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def shown(seconds: Sequence[float]) -> str:
    """The median with the fastest and slowest in brackets, in seconds or, below a second, milliseconds."""
    factor, unit, digits = (1, "s", 2) if median(seconds) >= 1 else (1000, "ms", 0 if median(seconds) >= 0.01 else 2)
    middle, low, high = (f"{value * factor:.{digits}f}" for value in (median(seconds), min(seconds), max(seconds)))
    return f"{middle} {unit} ({low}-{high})"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(threads: int | None = None, packages: Sequence[str] = ()) -> str:
    """What figures depend on, without names: processor, memory, threads and the versions of the packages."""
    cpu = _field("/proc/cpuinfo", "model name") or "unknown"
    memory = int((_field("/proc/meminfo", "MemTotal") or "0 kB").split()[0])
    words = [f"{os.cpu_count()} cores of {cpu}", f"{memory / 1e6:.0f} GB of memory"]
    words += [] if threads is None else [f"{threads} threads"]
    words += [f"Python {sys.version.split()[0]}", *(f"{name} {version(name)}" for name in packages)]
    return ", ".join(words)


def bars(path: Path, panels: Sequence[Panel]) -> None:
    """Horizontal bars, a panel beside the other; the same figures give the same SVG file."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "modelbake", "svg.fonttype": "none", "font.size": 9})
    import matplotlib.pyplot as plt

    names = list(panels[0].values)
    size = (2 + 3 * len(panels), 1 + 0.6 * len(names))
    figure, row = plt.subplots(1, len(panels), figsize=size, sharey=True, layout="constrained", squeeze=False)
    for axis, panel in zip(row[0], panels, strict=True):
        values = [panel.values[name] for name in names]
        spread = panel.spread and [
            [panel.values[name] - panel.spread[name][0] for name in names],
            [panel.spread[name][1] - panel.values[name] for name in names],
        ]
        colors = [COLORS[index % len(COLORS)] for index in range(len(names))]
        drawn = axis.barh(names, values, xerr=spread, color=colors, height=0.6, capsize=3)
        axis.bar_label(drawn, fmt=panel.format, padding=6)
        axis.set_title(panel.title, fontsize=9)
        # The figures stand behind the bars and what they are spread over.
        axis.set_xlim(0, max([*values, *(high for _, high in (panel.spread or {}).values())]) * 1.35)
        axis.spines[["top", "right"]].set_visible(False)
    row[0][0].set_ylim(len(names) - 0.5, -0.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    # matplotlib leaves white space at the ends of lines.
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def page(name: str, text: str) -> None:
    """Write docs/bench/<name>.md."""
    TO.mkdir(parents=True, exist_ok=True)
    (TO / f"{name}.md").write_text(text, encoding="utf-8")
    say(f"written: {TO / name}.md")


def say(message: str) -> None:
    print(f"bench: {message}", file=sys.stderr, flush=True)


def _field(path: str, name: str) -> str | None:
    file = Path(path)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)
