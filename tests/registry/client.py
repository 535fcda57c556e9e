"""modelbake's commands as processes of their own, on folders of one test, and what must hold of a folder after every fault."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelbake import manifest
from modelbake.digests import Digests
from modelbake.manifest import BundleEntry
from modelbake.oci.pack import Packed, pack
from tests.faults.project import Done, environment
from tests.registry.bundles import NAME, models_folder
from tests.registry.tools import ROOT

PATIENCE = 60


@dataclass
class Running:
    """A command under way."""

    process: subprocess.Popen[bytes]
    files: tuple[Path, Path]

    def wait(self) -> Done:
        self.process.wait(PATIENCE)
        out, err = (path.read_text() for path in self.files)
        return Done(self.process.returncode, out, err)

    def kill(self) -> Done:
        self.process.kill()
        return self.wait().died()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, self.wait().err
            assert time.monotonic() < deadline, "that did not come"
            time.sleep(0.005)


@dataclass
class Client:
    """A machine with a models folder (`bundle`), a folder to pull into, a store, and commands on them."""

    folder: Path
    more: dict[str, str] = field(default_factory=dict)
    orders: dict[str, Any] = field(default_factory=dict)
    _count: int = 0

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def to(self) -> Path:
        return self.folder / "pulled"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def bundle(self, **arguments: Any) -> Packed:
        """Make the models folder (arguments of `models_folder`), and give the bundle's blobs and documents."""
        entry = models_folder(self.models, **arguments)
        return pack(self.models, entry, Digests(self.folder / "packing"))

    def start(self, *words: str | Path) -> Running:
        self._count += 1
        files = (self.folder / f"{self._count}.out", self.folder / f"{self._count}.err")
        (self.folder / "home").mkdir(exist_ok=True)
        environ = environment(
            HOME=str(self.folder / "home"),
            MODELBAKE_ROOT=str(self.folder),
            MODELBAKE_CACHE=str(self.folder / "cache"),
            MODELBAKE_STORE=str(self.store),
            TESTS_SET=json.dumps(self.orders),
        )
        environ |= self.more
        with files[0].open("wb") as out, files[1].open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.registry.driver", *map(str, words)],
                cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip
        return Running(process, files)

    def run(self, *words: str | Path) -> Done:
        return self.start(*words).wait()

    def push_words(self, reference: str, name: str = NAME) -> tuple[str | Path, ...]:
        return ("push", name, reference, "--models-dir", self.models)

    def push(self, reference: str, name: str = NAME) -> Done:
        return self.run(*self.push_words(reference, name))

    def pull_words(self, reference: str, *more: str) -> tuple[str | Path, ...]:
        return ("pull", reference, "--to", self.to, *more)

    def pull(self, reference: str, *more: str) -> Done:
        return self.run(*self.pull_words(reference, *more))

    def holds(self, entry: BundleEntry) -> None:
        """The folder has this bundle, whole, and nothing besides."""
        assert manifest.read(self.to).bundles == (entry,)
        assert self.visible() == {*(ref.path for ref in entry.files), manifest.MANIFEST_NAME}
        self.is_sound(entry)

    def is_sound(self, entry: BundleEntry) -> None:
        """Nothing that is to be seen in the folder is wrong: a file of the bundle's name has its bytes, a manifest's files are there."""
        refs = {ref.path: ref for ref in entry.files}
        for path in self.visible() - {manifest.MANIFEST_NAME}:
            assert hashlib.sha256((self.to / path).read_bytes()).hexdigest() == refs[path].sha256, path
        if (self.to / manifest.MANIFEST_NAME).exists():
            for listed in manifest.read(self.to).bundles:
                assert {ref.path for ref in listed.files} <= self.visible()

    def visible(self) -> set[str]:
        """Files that a reader of the folder would take: none whose own name or folder's begins with a dot."""
        found = (path.relative_to(self.to) for path in self.to.rglob("*") if path.is_file())
        return {path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)}

    def on_disk(self) -> int:
        """Bytes of all files in the folder, those of cut downloads too."""
        return sum(path.stat().st_size for path in self.to.rglob("*") if path.is_file())


def total(packed: Packed) -> int:
    """Bytes of the bundle's layers, that of its manifest too."""
    return sum(blob.descriptor.size for blob in packed.layers)


def layer_of(packed: Packed, part: str) -> str:
    """The digest of the layer whose file's path contains `part`."""
    (found,) = (
        blob.descriptor.digest
        for blob in packed.layers
        if part in (blob.descriptor.annotations or {})["org.opencontainers.image.title"]
    )
    return found
