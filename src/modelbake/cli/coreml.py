"""modelbake coreml: Core ML bundles finished on a Mac, and Swift for their packages."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelbake import manifest
from modelbake.cli.oci import find_policies, plain_http_option, signature_option
from modelbake.cli.options import load_settings, models_dir_option, speaking
from modelbake.errors import ModelbakeError, UsageError
from modelbake.finish.units import RUNS, UNITS
from modelbake.output import out, table

if TYPE_CHECKING:
    from modelbake.finish.bundle import Finished
    from modelbake.finish.report import PackageReport
    from modelbake.manifest import BundleEntry
    from modelbake.oci.reference import Reference
    from modelbake.settings import Settings


@click.group("coreml")
def command() -> None:
    """Core ML bundles: finished on a Mac, and Swift that calls their packages."""


@command.command("finish")
@click.argument("bundle")
@click.option(
    "--unit",
    "units",
    multiple=True,
    type=click.Choice(UNITS),
    help="Replay on these compute units alone [default: all].",
)
@click.option(
    "--runs", type=click.IntRange(1), default=RUNS, show_default=True, help="Calls that a latency is the median of."
)
@click.option("--version", "version", metavar="X.Y.Z", help="The new version [default: the next patch].")
@click.option(
    "--reports",
    "reports_dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the host reports into this folder too, also where a gate is missed.",
)
@click.option("--push", "target", metavar="REF", help="Then push the new version to REF (HOST/REPOSITORY:TAG).")
@signature_option
@plain_http_option
@models_dir_option
@speaking
def finish(
    bundle: str,
    units: tuple[Any, ...],
    runs: int,
    version: str | None,
    reports_dir: Path | None,
    target: str | None,
    keys: tuple[Path, ...],
    plain_http: bool,
    models_dir: Path | None,
) -> None:
    """On a Mac: compile BUNDLE's Core ML packages, replay its goldens on each compute unit, and keep it as a new version.

    BUNDLE is a name in the models folder, or HOST/REPOSITORY:TAG or store:NAME, which is pulled there first. A missed gate (exit 6)
    leaves the bundle as it is, and pushes nothing; this is no Mac, or has no Xcode or coremltools: exit 7.
    """
    from modelbake.cli.push import parse_target, refuse_taken
    from modelbake.digests import Digests
    from modelbake.finish.bundle import check_form, find_mac
    from modelbake.finish.bundle import finish as finish_bundle

    context = click.get_current_context()
    settings = load_settings(models_dir)
    is_reference = "/" in bundle or ":" in bundle
    if keys and not is_reference:
        raise click.UsageError("--require-signature goes with a BUNDLE that is pulled.", context)
    if version is not None:
        check_form(version)
    push_to = parse_target(target) if target else None
    if push_to is not None and is_reference:
        _refuse_same(bundle, push_to)
    mac = find_mac()
    if push_to is not None:
        # Before gigabytes are pulled and an hour is measured.
        refuse_taken(settings, push_to, plain_http)
    name = _pulled(settings, bundle, keys, plain_http) if is_reference else bundle
    entry = manifest.read(settings.models_dir).bundle(name)
    if entry.weights == "sample" and not is_reference:
        # Pulling says so itself.
        out.warn(f"{entry.name}: SAMPLE WEIGHTS (random), for trying out, not for use.")

    def on_report(report: PackageReport) -> None:
        _show(report)
        if reports_dir is not None:
            _write(reports_dir, report)

    out.info(f"{entry.name} {entry.version} on {mac.host.model} ({mac.host.chip}), macOS {mac.host.macos}")
    digests = Digests(settings.cache_dir)
    done = finish_bundle(settings.models_dir, entry, mac, digests, version, units or UNITS, runs, on_report)
    result, lines = _result(done)
    if push_to is not None:
        result["pushed"], pushed = _pushed(settings, done.entry, push_to, plain_http, models_dir)
        lines += pushed
    out.result(result, lines)


@command.command("swift")
@click.argument("bundle")
@click.option("--role", help="Of the artifact with that role, such as text_encoder [default: the only one].")
@click.option(
    "--precision", help="Of the artifact of that precision: fp32, fp16, int8 or 4bit [default: fp32, or the only one]."
)
@models_dir_option
@speaking
def swift(bundle: str, role: str | None, precision: str | None, models_dir: Path | None) -> None:
    """Print Swift that calls a package of BUNDLE in the models folder: tokenising, padding, predicting, compiled models kept.

    The manifest has the package's names, shapes, lengths and digests, and so has the Swift. It is written, not compiled here.
    """
    from modelbake.swift.source import swift_source

    settings = load_settings(models_dir)
    entry = manifest.read(settings.models_dir).bundle(bundle)
    roles = list(dict.fromkeys(artifact.role for artifact in entry.artifacts))
    if role is None:
        if len(roles) > 1:
            raise UsageError(f"{bundle} has several roles; give --role one of: {', '.join(roles)}.")
        (role,) = roles
    artifact = entry.artifact(role, precision)
    source = swift_source(settings.models_dir, entry, artifact)
    if entry.weights == "sample":
        out.warn(f"{entry.name}: SAMPLE WEIGHTS (random), for trying out, not for use.")
    out.result(
        {"bundle": entry.name, "role": role, "precision": artifact.precision, "swift": source}, source.splitlines()
    )


def _refuse_same(source: str, target: Reference) -> None:
    from modelbake.oci.locate import IN_STORE
    from modelbake.oci.reference import parse

    if source.startswith(IN_STORE):
        return
    found = parse(source)
    # A digest alone leads to no tag.
    tag = found.tag or (None if found.digest else "latest")
    if (found.host, found.repository, tag) == (target.host, target.repository, target.tag or "latest"):
        raise UsageError(
            f"{target} is what is pulled; give --push another tag, so that what was verified on Linux stays as it is."
        )


def _pushed(
    settings: Settings, entry: BundleEntry, target: Reference, plain_http: bool, models_dir: Path | None
) -> tuple[dict[str, Any], list[str]]:
    """What send_bundle gives; its errors say as well that the measuring need not be done again."""
    from modelbake.cli.push import send_bundle

    try:
        return send_bundle(settings, entry.name, target, plain_http=plain_http)
    except ModelbakeError as error:
        words = ["modelbake", "push", entry.name, str(target), *(["--plain-http"] if plain_http else [])]
        words += ["--models-dir", str(models_dir)] if models_dir else []
        told = ModelbakeError(
            f"{error}\n{entry.name} {entry.version} is finished in {settings.models_dir}; send it with `{shlex.join(words)}`."
        )
        told.exit_code = error.exit_code
        raise told from error


def _pulled(settings: Settings, reference: str, keys: tuple[Path, ...], plain_http: bool) -> str:
    """The name of the one bundle of the reference, which is in the models folder then."""
    from modelbake.cli.pull import bring
    from modelbake.oci.pull import Wanted

    policies = find_policies(settings, keys)
    result = bring(settings, reference, None, settings.models_dir, Wanted(), policies, plain_http)
    for line in result["lines"]:
        out.info(line)
    names: list[str] = result["bundles"]
    if len(names) != 1:
        raise UsageError(
            f"{reference} holds several bundles, which are in {settings.models_dir} now; finish each by its name: {', '.join(names)}."
        )
    return names[0]


def _show(report: PackageReport) -> None:
    rows = []
    for one in report.units:
        latency = ", ".join(f"{shape}: {ms:g}" for shape, ms in one.latency_ms.items()) or "-"
        found = one.figures
        figures = [found.max_abs_diff, found.mean_cosine, found.lowest_cosine] if found else [None] * 3
        shown = ["-" if figure is None else f"{figure:.6g}" for figure in figures]
        rows.append([one.unit, "PASS" if one.passed else "FAIL", *shown, latency])
    header = ["unit", "result", "max diff", "mean cosine", "lowest", "latency, ms"]
    out.info("\n".join([report.package, *table(header, rows)]))


def _write(folder: Path, report: PackageReport) -> None:
    from modelbake.files import write_atomically
    from modelbake.finish.report import encode

    write_atomically(folder / f"{Path(report.package).stem}.json", encode(report))


def _result(done: Finished) -> tuple[dict[str, Any], list[str]]:
    entry = done.entry
    packages = [artifact.coreml for artifact in entry.artifacts if artifact.coreml is not None]
    result: dict[str, Any] = {
        "bundle": entry.name,
        "version": entry.version,
        "digest": entry.digest,
        "packages": [{"package": p.package, "compiled": p.compiled, "report": p.report} for p in packages],
    }
    lines = [f"{entry.name} {entry.version}, verified on Apple's runtime", f"  digest  {entry.digest}"]
    return result, lines + [f"  {p.compiled}, {p.report}" for p in packages]
