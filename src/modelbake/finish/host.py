"""What a host report tells of the Mac: its hardware and system, and nothing that names the machine or its user."""

from __future__ import annotations

import platform

from msgspec import Struct

from modelbake.errors import MachineError
from modelbake.finish.tools import said

_ANOTHER = "Finish the bundle on a Mac with Xcode; docs/coreml-mac.md shows how."


class Host(Struct, frozen=True, forbid_unknown_fields=True):
    """`model` (hw.model, such as Mac14,2), `chip` (machdep.cpu.brand_string), `memory` in bytes (hw.memsize), macOS' version and build."""

    model: str
    chip: str
    memory: int
    macos: str
    macos_build: str


def this_mac() -> Host:
    """This machine; MachineError where it is no Mac."""
    system = platform.system()
    if system != "Darwin":
        raise MachineError(f"This machine runs {system}, and Core ML runs on macOS alone. {_ANOTHER}")

    def asked(*words: str) -> str:
        return said(list(words), "describing this Mac", _ANOTHER)

    memory = asked("sysctl", "-n", "hw.memsize")
    if not memory.isdecimal():
        raise MachineError(f"`sysctl -n hw.memsize` said {memory!r}, which is no number of bytes. {_ANOTHER}")
    return Host(
        model=asked("sysctl", "-n", "hw.model"),
        chip=asked("sysctl", "-n", "machdep.cpu.brand_string"),
        memory=int(memory),
        macos=asked("sw_vers", "-productVersion"),
        macos_build=asked("sw_vers", "-buildVersion"),
    )
