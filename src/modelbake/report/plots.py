"""Plots as SVG elements: bars on a linear scale, and bars against a gate on a logarithmic one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from modelbake.report.markup import el

WIDTH, LABELS, VALUES, ROW = 760, 290, 100, 26
LONGEST_LABEL = 40


@dataclass(frozen=True)
class Bar:
    """A row of a plot: what it is of, its value and the words for it; `kind` is a class of the style sheet."""

    label: str
    value: float
    text: str
    kind: str = ""


def bars(title: str, rows: Sequence[Bar]) -> Element:
    """Horizontal bars from 0."""
    top = max((row.value for row in rows), default=0) or 1
    return _plot(title, rows, [row.value / top for row in rows], None)


def gated(title: str, rows: Sequence[Bar], gate: float) -> Element:
    """Bars on a logarithmic scale of four decades below the gate and half a decade above it; the gate is a line."""
    low, high = math.log10(gate) - 4, math.log10(gate) + 0.5

    def place(value: float) -> float:
        return min(1.0, max(0.0, (math.log10(value) - low) / (high - low))) if value > 0 else 0.0

    return _plot(title, rows, [place(row.value) for row in rows], place(gate))


def _plot(title: str, rows: Sequence[Bar], lengths: Sequence[float], line: float | None) -> Element:
    room, height = WIDTH - LABELS - VALUES, ROW * len(rows) + 8
    parts = [el("title", title)]
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        middle = index * ROW + ROW / 2 + 4
        short = row.label if len(row.label) <= LONGEST_LABEL else f"…{row.label[1 - LONGEST_LABEL :]}"
        width = max(1.5, length * room)
        parts += [
            el("text", short, x=LABELS - 8, y=middle + 4, text_anchor="end"),
            el("rect", el("title", f"{row.label}: {row.text}"), cls=f"bar {row.kind}".strip(), x=LABELS, y=middle - 8,
               width=f"{width:.1f}", height=16, rx=2),
            el("text", row.text, cls="value", x=f"{LABELS + width + 6:.1f}", y=middle + 4),
        ]  # fmt: skip
    if line is not None:
        x = f"{LABELS + line * room:.1f}"
        parts.append(el("line", cls="gate", x1=x, x2=x, y1=2, y2=height - 2))
    return el(
        "svg", *parts, cls="plot", role="img", viewBox=f"0 0 {WIDTH} {height}", width=WIDTH, height=height,
        aria_label=title,
    )  # fmt: skip
