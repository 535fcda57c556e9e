"""All that is printed: messages and progress to standard error, results to standard output, as words or as JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol


class ReaderGoneError(Exception):
    """Whoever read our results went away, as `head` does; there is nobody to go on for."""


class Progress(Protocol):
    """A progress bar, or something that takes its calls and shows nothing."""

    def update(self, n: int, /) -> object: ...

    def close(self) -> object: ...


class _NoProgress:
    def update(self, n: int, /) -> None:
        pass

    def close(self) -> None:
        pass


NO_PROGRESS: Progress = _NoProgress()


@dataclass
class Output:
    """How this process speaks; one instance, `out`, set up by the command line."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False

    def info(self, message: str) -> None:
        """A line on what happens."""
        if not self.quiet:
            self._error_line(message)

    def detail(self, message: str) -> None:
        """A line that only --verbose shows."""
        if self.verbose:
            self._error_line(message)

    def warn(self, message: str) -> None:
        """A line that even --quiet shows."""
        self._error_line(f"WARNING: {message}")

    def error(self, message: str, exit_code: int) -> None:
        """The one message of a failure; with --json an object on standard output as well."""
        self._error_line(f"error: {message}")
        if self.json:
            self._result_line(json.dumps({"error": message, "exit_code": exit_code}))

    def result(self, data: Any, lines: Iterable[str]) -> None:
        """The command's result: `data` with --json, else the lines."""
        if self.json:
            self._result_line(json.dumps(data, ensure_ascii=False))
        else:
            for line in lines:
                self._result_line(_plain(line))

    def progress(self, total: int | None, label: str, unit: str = "B") -> Progress:
        """A tqdm bar on a terminal; elsewhere, and with --quiet, nothing."""
        if self.quiet or not sys.stderr.isatty():
            return NO_PROGRESS
        from tqdm import tqdm

        bar: Progress = tqdm(
            total=total, desc=label, unit=unit, unit_scale=unit == "B", unit_divisor=1024, leave=False, file=sys.stderr
        )
        return bar

    def _error_line(self, text: str) -> None:
        text = _plain(text)
        # Only a bar that is shown has to be written around; the runtime's image has no tqdm at all.
        if "tqdm" in sys.modules and sys.stderr.isatty():
            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)
        else:
            # A reader of messages who went away is no reason to stop.
            with suppress(BrokenPipeError):
                print(text, file=sys.stderr, flush=True)

    def _result_line(self, text: str) -> None:
        try:
            print(text, flush=True)
        except BrokenPipeError as error:
            # What is still in the buffer goes nowhere, or Python would complain of it at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise ReaderGoneError from error


out = Output()

# What a terminal would obey: text from registries, hubs and files is shown and must not move its cursor or set its title.
_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def _plain(text: str) -> str:
    """The text with U+FFFD for each control character but the ends of lines and tabs."""
    return text.translate(_CONTROLS)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines of left-aligned columns under their header."""
    widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines
