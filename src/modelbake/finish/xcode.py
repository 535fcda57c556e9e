"""Xcode's Core ML compiler: which one this Mac has, and a package compiled with it."""

from __future__ import annotations

from pathlib import Path

from modelbake.errors import MachineError, RefusedError
from modelbake.finish.tools import said

# The command line tools alone have no coremlcompiler.
_INSTALL = "Install Xcode and choose it with `sudo xcode-select --switch /Applications/Xcode.app`."


def versions() -> dict[str, str]:
    """The versions of Xcode, with its build, and of coremlcompiler; MachineError where one of them is missing."""
    said(["xcrun", "--find", "coremlcompiler"], "compiling Core ML packages", _INSTALL)
    xcode = said(["xcodebuild", "-version"], "asking for Xcode's version", _INSTALL)
    compiler = said(["xcrun", "coremlcompiler", "version"], "asking for the compiler's version", _INSTALL)
    return {"xcode": ", ".join(xcode.splitlines()), "coremlcompiler": compiler}


def compile_package(package: Path, folder: Path) -> Path:
    """The .mlmodelc that coremlcompiler makes of the .mlpackage, in `folder`, which must exist.

    MachineError where the compiler fails, with its words, or leaves no such folder; RefusedError where that holds anything but
    plain files.
    """
    again = f"Look at {package} with Xcode, or convert the model for another minimum_os."
    said(["xcrun", "coremlcompiler", "compile", str(package), str(folder)], f"compiling {package}", again)
    compiled = folder / f"{package.stem}.mlmodelc"
    if not compiled.is_dir() or not any(path.is_file() for path in compiled.rglob("*")):
        raise MachineError(f"coremlcompiler said that it compiled {package}, but left no {compiled.name}. {again}")
    for path in (compiled, *compiled.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise RefusedError(f"{path} is no plain file or folder; only those go into bundles. {again}")
    return compiled
