"""Verifying what is inside an image: by the modelbake in it where it has one, else by this machine's on the files taken out."""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

import msgspec

from modelbake.bake.docker import docker, inspect_image, last_line, require_engine
from modelbake.bake.proof import SANDBOX
from modelbake.bundle import safe_relative_path
from modelbake.errors import IntegrityError, MachineError, ModelbakeError, RefusedError
from modelbake.files import disk_errors
from modelbake.manifest import Parity, Quality

Figures = dict[str, dict[str, Parity | Quality]]


def verify_image(image: str, names: tuple[str, ...], *, here: bool) -> Figures:
    """Hash every file of the image's bundles `names` (default: all) and replay their goldens; the figures by bundle and artifact.

    An image with modelbake as its command does so itself, in a container without network, rights or a writable file; `here` says
    to trust it in nothing and take its files out instead, as is done with images of files alone. Errors as those of
    `modelbake.verify`, MachineError where docker fails or this machine has not the packages to replay with.
    """
    require_engine()
    config = inspect_image(image)["Config"]
    if not here and (config.get("Entrypoint") or [""])[0].rpartition("/")[2] == "modelbake":
        return _inside(image, names)
    return _outside(image, names)


def _inside(image: str, names: tuple[str, ...]) -> Figures:
    command = ["docker", "run", *SANDBOX, image, "verify", "--json", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise _failure(image, done)
    try:
        answer = msgspec.json.decode(done.stdout, type=dict[str, dict[str, dict[str, float]]])
        return {name: {path: _figures(one) for path, one in found.items()} for name, found in answer.items()}
    except msgspec.DecodeError as error:
        raise IntegrityError(f"{image}: its verify did not answer with figures ({error}); build it anew.") from error


def _figures(found: dict[str, float]) -> Parity | Quality:
    """The two share no field by which msgspec could tell them apart."""
    if "mean_cosine" in found:
        return msgspec.convert(found, Quality, strict=False)
    return msgspec.convert(found, Parity, strict=False)


def _failure(image: str, done: subprocess.CompletedProcess[str]) -> ModelbakeError:
    """The error that the container ended with, with its own exit code; MachineError for one that is docker's."""
    with suppress(ValueError, KeyError, TypeError, IndexError):
        said = json.loads(done.stdout.splitlines()[-1])
        kinds = {kind.exit_code: kind for kind in ModelbakeError.__subclasses__()}
        return kinds[said["exit_code"]](f"{image}: {said['error']}")
    return MachineError(f"docker run failed: {last_line(done.stderr)}")


def _outside(image: str, names: tuple[str, ...]) -> Figures:
    try:
        from modelbake.verify import verify
    except ModuleNotFoundError as error:
        raise MachineError(
            f"{image} has files alone, and this machine lacks {error.name}, which replaying its goldens takes: "
            "pip install '.[runtime]', or verify an image that holds the bundle and the runtime (search)."
        ) from error
    with tempfile.TemporaryDirectory(prefix="modelbake-verify-") as folder, disk_errors(Path(folder)):
        _take_out(image, Path(folder))
        return verify(Path(folder) / "models", names)


def _take_out(image: str, folder: Path) -> None:
    """The image's /models into `folder`; the container that docker needs for it never runs."""
    container = docker("create", "--network=none", image, "unused").decode().strip()
    try:
        with subprocess.Popen(["docker", "cp", f"{container}:/models", "-"], stdout=subprocess.PIPE) as process:
            stream = cast(IO[bytes], process.stdout)
            try:
                with tarfile.open(fileobj=stream, mode="r|") as archive:
                    for member in archive:
                        _write(image, archive, member, folder)
            except tarfile.ReadError as error:
                raise MachineError(
                    f"docker cp gave no /models of {image} ({error}); is it a bundle's image?"
                ) from error
            finally:
                # What is left unread would keep docker waiting.
                stream.close()
        if process.returncode != 0:
            raise MachineError(f"docker cp of /models of {image} ended with exit {process.returncode}.")
    finally:
        docker("rm", container)


def _write(image: str, archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """A plain file of the archive; folders come with their files, and nothing else belongs there."""
    if member.isdir():
        return
    path = safe_relative_path(member.name, f"/models of {image}")
    source = archive.extractfile(member) if member.isreg() else None
    if source is None or path.parts[0] != "models":
        raise RefusedError(f"{image}: /{member.name} is no plain file; do not use this image.")
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, target.open("xb") as file:
        while chunk := source.read(1 << 20):
            file.write(chunk)
