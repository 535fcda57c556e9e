"""The host report of a package: JSON that says on what Mac it was replayed, with which tools, and what came of it on each compute unit."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from modelbake.bundle import Name, Sha256
from modelbake.finish.gates import Figures, Gate
from modelbake.finish.host import Host
from modelbake.finish.units import Unit
from modelbake.manifest import Precision, Role

SCHEMA_VERSION = 1


class UnitReport(Struct, frozen=True, forbid_unknown_fields=True):
    """One compute unit: what it kept of the goldens, and how fast it was.

    `load_ms` is the first loading of the compiled model by this process, which takes longest where the system has not yet
    specialised it for the device. `latency_ms` is the median of `runs` calls, by sequence length or input shape. `placement` counts
    the program's operations by the device that Core ML prefers for them (cpu, gpu, neural_engine); before macOS 14.4 there is none,
    and where it cannot be had, `placement_failure` says why. Where there are no figures, `failure` says why; it also names a gate
    that was missed.
    """

    unit: Unit
    passed: bool
    gate: Gate
    items: int
    runs: int
    load_ms: float | None = None
    latency_ms: dict[str, float] = {}
    figures: Figures | None = None
    placement: dict[str, int] | None = None
    placement_failure: str | None = None
    failure: str | None = None


class PackageReport(Struct, frozen=True, forbid_unknown_fields=True):
    """One package on one Mac. No time, host name or user is in it.

    `version` and `digest` are those of the bundle that was taken, `package_sha256` the digest of the package's files by
    manifest.bundle_digest, `goldens_sha256` that of the goldens' file.
    """

    schema_version: Annotated[int, Meta(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]
    bundle: Name
    version: str
    digest: Sha256
    package: str
    package_sha256: Sha256
    compiled_sha256: Sha256
    goldens_sha256: Sha256
    role: Role
    precision: Precision
    host: Host
    tools: dict[str, str]
    units: tuple[UnitReport, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """What kept the package from passing, a line for each compute unit."""
        return tuple(f"{self.package} on {one.unit}: {one.failure}" for one in self.units if not one.passed)


def encode(report: PackageReport) -> bytes:
    """The report as JSON, two spaces, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(report, order="sorted"), indent=2) + b"\n"
