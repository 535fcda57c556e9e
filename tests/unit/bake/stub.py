"""A docker of our own on PATH: it writes down how it was called and answers from a table."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

SCRIPT = """#!{python} -SE
import json, os, sys
folder = {folder!r}
words = sys.argv[1:]
with open(folder + "/calls", "a") as file:
    file.write(json.dumps({{"words": words, "environ": dict(os.environ)}}) + "\\n")
for answer in json.load(open(folder + "/answers")):
    if words[: len(answer["words"])] == answer["words"]:
        if answer["out"]:
            sys.stdout.buffer.write(open(answer["out"], "rb").read())
        if answer["err"]:
            sys.stderr.buffer.write(open(answer["err"], "rb").read())
        for path in answer["keep"]:
            data = [open(word.split("src=")[1], "rb").read() for word in words if path in word]
            open(folder + "/kept", "ab").write(b"".join(data))
        sys.exit(answer["code"])
sys.exit("the stub docker knows no answer to " + " ".join(words))
"""


class StubDocker:
    """The stub in `folder`/bin; answers are looked up in the order given, by the first words of the call."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        self._folder = folder
        self._answers: list[dict[str, Any]] = []
        path = self.bin / "docker"
        path.write_text(SCRIPT.format(python=sys.executable, folder=str(folder)))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self._write()

    def answer(
        self, *words: str, out: str | bytes = b"", err: str | bytes = b"", code: int = 0, keep: str = ""
    ) -> None:
        """Answer calls that begin with `words`; `keep` has files kept that arguments holding it name after `src=`."""
        number = len(self._answers)
        found: dict[str, Any] = {"words": words, "code": code, "keep": [keep] if keep else [], "out": "", "err": ""}
        for name, data in (("out", out), ("err", err)):
            if data:
                path = self._folder / f"{name}{number}"
                path.write_bytes(data.encode() if isinstance(data, str) else data)
                found[name] = str(path)
        self._answers.append(found)
        self._write()

    @property
    def calls(self) -> list[list[str]]:
        """The words of every call so far."""
        return [call["words"] for call in self._calls()]

    @property
    def environs(self) -> list[dict[str, str]]:
        """The environment of every call so far."""
        return [call["environ"] for call in self._calls()]

    @property
    def kept(self) -> bytes:
        """What the files that `keep` named held."""
        return (self._folder / "kept").read_bytes()

    def _calls(self) -> list[dict[str, Any]]:
        path = self._folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _write(self) -> None:
        (self._folder / "answers").write_text(json.dumps(self._answers))
