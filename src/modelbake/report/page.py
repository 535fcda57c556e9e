"""The page itself, from the facts of `modelbake.inspect` and the timings; what it does not know of an artifact it shows as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from modelbake import __version__
from modelbake.report.markup import Child, el, page, table
from modelbake.report.plots import Bar, bars, gated
from modelbake.report.speed import Timing

Facts = dict[str, Any]
STYLE = Path(__file__).with_name("style.css")


def render(entries: list[Facts], timings: list[Timing], machine: str) -> str:
    """The HTML of the report; without `timings` it has no section on speed, and the same models give the same bytes."""
    sample = [entry["name"] for entry in entries if entry["weights"] == "sample"]
    body: list[Element] = [
        el("h1", "Models"),
        el("p", f"What this models folder holds, by its manifest and its files. modelbake {__version__}.", cls="soft"),
    ]
    if sample:
        words = f"SAMPLE WEIGHTS (random) in {', '.join(sample)}: for trying out, not for use. Their bars are red."
        body.append(el("p", words, cls="alarm", role="alert"))
    body += [
        _tiles(entries),
        el("h2", "Bundles"),
        _bundles(entries),
        el("h2", "Artifacts"),
        _artifacts(entries),
        *_sizes(entries),
        *_parity(entries),
        *_quality(entries),
    ]
    if timings:
        body += _speed(entries, timings, machine)
    body += [el("h2", "Provenance"), *(part for entry in entries for part in _provenance(entry))]
    return page("modelbake report", STYLE.read_text(encoding="utf-8"), el("main", *body))


def _tiles(entries: list[Facts]) -> Element:
    artifacts = [artifact for entry in entries for artifact in entry["artifacts"]]
    nearest = max(
        (a["parity"]["max_abs_diff"] / a["parity"]["gate"] for a in artifacts if a.get("parity")), default=0.0
    )
    tiles = [
        (str(len(entries)), "bundles"),
        (str(len(artifacts)), "artifacts"),
        (size(sum(entry["size"] for entry in entries)), "in all"),
        (f"{nearest:.0%}", "of its parity gate, at most"),
    ]
    return el("ul", *(el("li", el("b", number), words) for number, words in tiles), cls="tiles")


def _bundles(entries: list[Facts]) -> Element:
    rows: list[list[Child]] = [
        [
            entry["name"],
            entry["description"],
            entry["version"],
            entry["kind"],
            el("span", entry["weights"].upper() if entry["weights"] == "sample" else entry["weights"],
               cls=f"badge {entry['weights']}"),
            el("span", "yes" if entry["pinned"] else "not pinned", cls="badge" if entry["pinned"] else "badge no"),
            entry["licence"],
            _exactly(size(entry["size"])),
        ]
        for entry in entries
    ]  # fmt: skip
    header = ["bundle", "what it gives", "version", "kind", "weights", "pinned", "licence", "size"]
    return table(header, rows, id="bundles")


def _artifacts(entries: list[Facts]) -> Element:
    rows: list[list[Child]] = []
    for entry, artifact in _each(entries):
        graph = artifact["graph"] or {}
        opsets = ", ".join(f"{domain or 'onnx'} {version}" for domain, version in graph.get("opsets", {}).items())
        rows.append(
            [
                el("span", el("code", artifact["path"]), el("br"), el("span", entry["name"], cls="soft")),
                el("span", artifact["role"], el("br"), el("b", artifact["precision"])),
                _exactly(size(artifact["total_size"])),
                f"{graph['parameters'] / 1e6:.2f} M" if graph else _lacking(artifact),
                f"{graph['nodes']} ({opsets})" if graph else "-",
                el("span", _tensors(artifact["inputs"]), el("br"), "→ ", _tensors(artifact["outputs"])),
                _kept(artifact),
            ]
        )
    header = [
        "file, bundle",
        "role, precision",
        "size",
        "parameters",
        "nodes",
        "inputs → outputs",
        "kept of the reference",
    ]
    return table(header, rows, id="artifacts")


def _lacking(artifact: Facts) -> str:
    return "the file is MISSING" if artifact["format"] == "onnx" else "not read here"


def _kept(artifact: Facts) -> Child:
    """How near the artifact is to the reference: by parity, or by the quality of a variant."""
    if parity := artifact.get("parity"):
        return el(
            "span",
            _exactly(f"{parity['max_abs_diff']:g} of {parity['gate']:g}"),
            f" in {parity['cases']} cases",
        )
    return "below, as quality" if artifact.get("quality") else "-"


def _tensors(tensors: list[Facts]) -> str:
    return "; ".join(f"{t['name']} {t['dtype']} [{', '.join(map(str, t['shape']))}]" for t in tensors)


def _sizes(entries: list[Facts]) -> Iterator[Element]:
    rows = [
        Bar(_name(artifact), artifact["total_size"], size(artifact["total_size"]), _kind(entry))
        for entry, artifact in _each(entries)
    ]
    yield el("h2", "Size")
    yield el("p", "Each graph with the weights beside it.", cls="soft")
    yield bars("Size of each artifact", rows)


def _parity(entries: list[Facts]) -> Iterator[Element]:
    """One plot for each gate."""
    yield el("h2", "Parity")
    yield el(
        "p",
        "The largest difference of any output from the reference framework's, on a logarithmic scale, and the gate that it must keep.",
        cls="soft",
    )
    held = [(entry, artifact) for entry, artifact in _each(entries) if artifact.get("parity")]
    for gate in sorted({artifact["parity"]["gate"] for _, artifact in held}):
        rows = [
            Bar(_name(a), a["parity"]["max_abs_diff"], f"{a['parity']['max_abs_diff']:g}", _kind(entry))
            for entry, a in held
            if a["parity"]["gate"] == gate
        ]
        yield el("h3", f"Gate {gate:g}")
        yield gated(f"Parity against the gate {gate:g}", rows, gate)


def _quality(entries: list[Facts]) -> Iterator[Element]:
    """Figures of variants, where the manifest has some."""
    rows: list[list[Child]] = []
    for entry, artifact in _each(entries):
        for name, value in _flat(artifact.get("quality") or {}):
            rows.append([el("code", artifact["path"]), entry["name"], artifact["precision"], name, value])
    if rows:
        yield el("h2", "Quality of variants")
        yield table(["file", "bundle", "precision", "figure", "value"], rows, id="quality")


def _speed(entries: list[Facts], timings: list[Timing], machine: str) -> Iterator[Element]:
    kinds = {entry["name"]: _kind(entry) for entry in entries}
    yield el("h2", "Speed")
    yield el("p", f"On this machine: {machine}. Medians of calls in turns, through the runtime.", cls="soft")
    for batch in sorted({timing.batch for timing in timings}):
        rows = [
            Bar(f"{_file(t.path)} ({t.precision})", t.milliseconds, _ms(t.milliseconds), kinds[t.bundle])
            for t in timings
            if t.batch == batch
        ]
        yield el("h3", f"Batch {batch}")
        yield bars(f"Milliseconds of a call with {batch} in a batch", rows)
    cells: list[list[Child]] = [
        [
            el("code", t.path),
            t.role,
            t.precision,
            str(t.batch),
            _exactly(_ms(t.milliseconds)),
            f"{t.batch / t.milliseconds * 1e3:,.0f}",
            f"{t.ratio:.2f} x" if t.ratio else "-",
            str(t.rounds),
            t.shapes,
        ]
        for t in timings
    ]
    header = ["file", "role", "precision", "batch", "a call", "per second", "to fp32", "calls", "inputs"]
    yield table(header, cells, id="speed")


def _provenance(entry: Facts) -> Iterator[Element]:
    source = entry["source"]
    said = "; ".join(f"{name} {value}" for name, value in source.items() if name != "files" and value is not None)
    tools = {f"{name} {version}" for artifact in entry["artifacts"] for name, version in artifact["tools"].items()}
    fallback = entry.get("fallback")
    instead = "; ".join(f"{one['model']} ({one['reason']})" for one in fallback["instead_of"]) if fallback else ""
    facts = [
        *([("fallback", f"{fallback['model']} instead of {instead}")] if fallback else []),
        ("source", said),
        ("licence", entry["licence"]),
        ("made with", ", ".join(sorted(tools))),
        ("digest", entry["digest"]),
    ]
    yield el("h3", f"{entry['name']} {entry['version']}")
    yield table(["", ""], [[name, el("code", value)] for name, value in facts])
    rows = [["from", ref] for ref in source["files"]] + [["made", ref] for ref in entry["files"]]
    yield table(
        ["", "file", "size", "sha256"],
        [[kind, el("code", ref["path"]), _exactly(size(ref["size"])), el("code", ref["sha256"])] for kind, ref in rows],
        cls="files",
    )


def _each(entries: list[Facts]) -> Iterator[tuple[Facts, Facts]]:
    for entry in entries:
        for artifact in entry["artifacts"]:
            yield entry, artifact


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name} {key}".strip())
    elif isinstance(value, float):
        yield name, f"{value:g}"
    else:
        yield name, str(value)


def _exactly(text: str) -> Element:
    """A figure that no line end parts from its unit."""
    return el("span", text, cls="figure")


def _name(artifact: Facts) -> str:
    return f"{_file(artifact['path'])} ({artifact['precision']})"


def _file(path: str) -> str:
    return path.rpartition("/")[2]


def _kind(entry: Facts) -> str:
    return "sample" if entry["weights"] == "sample" else ""


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.3g} ms"


def size(count: int) -> str:
    """Bytes in words, by powers of 1000."""
    left = float(count)
    for unit in ("B", "kB", "MB"):
        if left < 1000:
            return f"{left:.3g} {unit}"
        left /= 1000
    return f"{left:.3g} GB"
