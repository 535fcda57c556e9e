"""Finishing a bundle: its packages compiled and replayed on this Mac, then the bundle in the models folder as a new version.

Nothing in the models folder changes before every package kept its gate on every compute unit, and then by modelbake.install, whole or not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec
from msgspec.structs import replace

from modelbake import manifest
from modelbake.bundle import Version
from modelbake.digests import Digests
from modelbake.errors import MachineError, ParityError, UnknownNameError, UsageError
from modelbake.files import check_files, disk_errors, file_refs, folder_digest
from modelbake.finish import xcode
from modelbake.finish.gates import gate_for
from modelbake.finish.host import Host, this_mac
from modelbake.finish.items import items_of, own_items
from modelbake.finish.measure import measure
from modelbake.finish.predict import Coremltools, Predictor
from modelbake.finish.report import SCHEMA_VERSION, PackageReport, encode
from modelbake.finish.units import RUNS, UNITS, Unit
from modelbake.install import install
from modelbake.manifest import Artifact, BundleEntry, CoremlPackage

REPORTS = "reports"


@dataclass(frozen=True)
class Mac:
    """This Mac: what it is, the versions of its tools, and what runs compiled models on it."""

    host: Host
    tools: dict[str, str]
    predictor: Predictor


@dataclass(frozen=True)
class Finished:
    """The bundle's new entry, as the manifest has it now, and the report of each package."""

    entry: BundleEntry
    reports: tuple[PackageReport, ...]


def find_mac(make_predictor: Callable[[], Predictor] = Coremltools) -> Mac:
    """This machine as one that can finish bundles; MachineError where it is no Mac, or lacks Xcode or coremltools."""
    host = this_mac()
    tools = xcode.versions()
    predictor = make_predictor()
    return Mac(host, tools | predictor.versions, predictor)


def finish(
    models: Path,
    entry: BundleEntry,
    mac: Mac,
    digests: Digests,
    version: str | None = None,
    units: Sequence[Unit] = UNITS,
    runs: int = RUNS,
    on_report: Callable[[PackageReport], None] = lambda report: None,
) -> Finished:
    """Compile the bundle's packages, replay its goldens on `units`, and install it as `version` (by default the next patch).

    `on_report` is told of each package's report, also of one that did not pass. ParityError where a gate is missed, with every
    failure; IntegrityError where a file is not the one that the manifest lists; MachineError where the compiler fails or the
    disk is full; UnknownNameError where the bundle has no Core ML package. The models folder is then as it was.
    """
    packages = [(a, a.coreml) for a in entry.artifacts if a.coreml is not None]
    if not packages:
        raise UnknownNameError(f"{entry.name} has no Core ML package; `modelbake list` shows the kind of each bundle.")
    new_version = next_version(entry.version) if version is None else checked_version(version, entry)
    for _, package in packages:
        _check_system(package, mac.host)
    check_files(models, entry)
    with tempfile.TemporaryDirectory(prefix="modelbake-finish-") as folder, disk_errors(Path(folder)):
        made = Path(folder)
        reports: dict[str, PackageReport] = {}
        for artifact, package in packages:
            report = _replayed(models, made, entry, artifact, package, mac, units, runs)
            on_report(report)
            reports[package.package] = report
            path = made / _report_path(package)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(report))
        failures = [line for report in reports.values() for line in report.failures]
        if failures:
            raise ParityError(
                f"{entry.name} {entry.version} misses gates on this Mac, so nothing was written or pushed:\n  "
                + "\n  ".join(failures)
                + "\nLeave a compute unit out with --unit, or the variant out of its bundle.toml, if it shall do without."
            )
        finished = _entry(entry, new_version, made)
        # The replays take long enough for somebody to change one.
        check_files(models, entry)
        install(models, finished, made, digests)
    return Finished(finished, tuple(reports.values()))


def next_version(version: str) -> str:
    """The version with its patch number one higher."""
    major, minor, patch = version.split(".")
    return f"{major}.{minor}.{int(patch) + 1}"


def check_form(version: str) -> None:
    """UsageError where it is no version, whatever the bundle's is."""
    try:
        msgspec.convert(version, Version)
    except msgspec.ValidationError as error:
        raise UsageError(f"{version!r} is no version; write MAJOR.MINOR.PATCH, such as 1.0.1.") from error


def checked_version(version: str, entry: BundleEntry) -> str:
    """`version`; UsageError where it is none, or not above the entry's."""
    check_form(version)
    if _numbers(version) <= _numbers(entry.version):
        raise UsageError(
            f"{version} is not above {entry.name}'s {entry.version}; a version is of one content, so give {next_version(entry.version)}."
        )
    return version


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdecimal()]


def _check_system(package: CoremlPackage, host: Host) -> None:
    needed = package.minimum_os.get("macOS")
    if needed is not None and _numbers(host.macos) < _numbers(needed):
        raise MachineError(
            f"{package.package} needs macOS {needed}, and this Mac has {host.macos}; finish the bundle on a newer one."
        )


def _replayed(
    models: Path,
    made: Path,
    entry: BundleEntry,
    artifact: Artifact,
    package: CoremlPackage,
    mac: Mac,
    units: Sequence[Unit],
    runs: int,
) -> PackageReport:
    compiled_path = made / _compiled_path(package)
    compiled_path.parent.mkdir(parents=True, exist_ok=True)
    compiled = xcode.compile_package(models / package.package, compiled_path.parent)
    golden = models / entry.goldens.path
    items, own = items_of(models, artifact, golden), own_items(artifact, golden)
    return PackageReport(
        schema_version=SCHEMA_VERSION,
        bundle=entry.name,
        version=entry.version,
        digest=entry.digest,
        package=package.package,
        package_sha256=folder_digest(entry.files, package.package),
        compiled_sha256=manifest.bundle_digest(file_refs(compiled)),
        goldens_sha256=entry.goldens.sha256,
        role=artifact.role,
        precision=artifact.precision,
        host=mac.host,
        tools=mac.tools,
        units=tuple(
            measure(mac.predictor, compiled, unit, items, own, gate_for(artifact, unit), runs) for unit in units
        ),
    )


def _entry(entry: BundleEntry, version: str, made: Path) -> BundleEntry:
    """The entry with what is in `made` instead of what an earlier finishing left."""
    packages = [a.coreml for a in entry.artifacts if a.coreml is not None]
    kept = (ref for ref in entry.files if not any(package.is_of_a_mac(ref.path) for package in packages))
    files = tuple(sorted((*kept, *file_refs(made)), key=lambda ref: ref.path))
    return replace(
        entry,
        version=version,
        artifacts=tuple(_finished(artifact) for artifact in entry.artifacts),
        files=files,
        digest=manifest.bundle_digest(files),
    )


def _finished(artifact: Artifact) -> Artifact:
    if artifact.coreml is None:
        return artifact
    package = artifact.coreml
    coreml = replace(
        package, verified_on="apple", compiled=str(_compiled_path(package)), report=str(_report_path(package))
    )
    return replace(artifact, coreml=coreml)


def _compiled_path(package: CoremlPackage) -> PurePosixPath:
    return PurePosixPath(package.package).with_suffix(".mlmodelc")


def _report_path(package: CoremlPackage) -> PurePosixPath:
    path = PurePosixPath(package.package)
    return path.parent / REPORTS / f"{path.stem}.json"
