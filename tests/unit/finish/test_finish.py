"""Finishing a bundle, with stand-ins for Xcode and for Apple's runtime: what it keeps, and what it refuses."""

from __future__ import annotations

import errno
import getpass
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from modelbake import manifest
from modelbake.digests import Digests
from modelbake.errors import (
    IntegrityError,
    MachineError,
    ModelbakeError,
    ParityError,
    RefusedError,
    UnknownNameError,
    UsageError,
)
from modelbake.finish import report
from modelbake.finish.bundle import Finished, Mac, find_mac, finish, next_version
from modelbake.finish.gates import SAME_LOWEST, SAME_MEAN, Figures, gate_for
from modelbake.finish.predict import Coremltools
from modelbake.finish.report import PackageReport
from modelbake.finish.units import UNITS, Unit
from modelbake.manifest import BundleEntry, Manifest
from modelbake.oci.pull import Wanted, part_of
from tests.unit import tiny
from tests.unit.finish import standins
from tests.unit.finish.standins import LENGTHS, NAME, StandInPredictor, turned

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("Tiny", "Tiny_int8")


def finished(models: Path, mac: Mac, **more: object) -> Finished:
    entry = manifest.read(models).bundle(NAME)
    return finish(models, entry, mac, Digests(models.parent / "cache"), **{"runs": 2, **more})  # type: ignore[arg-type]


def refused(models: Path, mac: Mac, kind: type[ModelbakeError], **more: object) -> str:
    """The message of a finish that fails and leaves the models folder, and the machine's temporary one, as they were."""
    before = tiny.contents(models)
    with pytest.raises(kind) as caught:
        finished(models, mac, **more)
    assert tiny.contents(models) == before
    assert not list((models.parent / "tmp").iterdir())
    return str(caught.value)


def test_the_bundle_becomes_a_new_version_with_what_the_mac_made(models: Path, entry: BundleEntry, mac: Mac) -> None:
    done = finished(models, mac)
    now = manifest.read(models).bundle(NAME)
    assert now == done.entry
    assert (now.version, entry.version) == ("1.0.1", "1.0.0")
    assert now.digest != entry.digest
    for artifact, stem in zip(now.artifacts, PACKAGES, strict=True):
        assert artifact.coreml is not None
        assert artifact.coreml.verified_on == "apple"
        assert artifact.coreml.compiled == f"coreml/{stem}.mlmodelc"
        assert artifact.coreml.report == f"coreml/reports/{stem}.json"
    added = {ref.path for ref in now.files} - {ref.path for ref in entry.files}
    inside = ("coremldata.bin", "model.mil", "weights/weight.bin")
    assert added == {f"coreml/{stem}.mlmodelc/{path}" for stem in PACKAGES for path in inside} | {
        f"coreml/reports/{stem}.json" for stem in PACKAGES
    }
    on_disk = tiny.contents(models)
    assert all(on_disk[ref.path] == ref for ref in now.files)


def test_nothing_else_of_the_entry_changes(models: Path, entry: BundleEntry, mac: Mac) -> None:
    now = finished(models, mac).entry
    for artifact, before in zip(now.artifacts, entry.artifacts, strict=True):
        assert replace(artifact, coreml=before.coreml) == before
    assert (
        replace(now, version=entry.version, artifacts=entry.artifacts, files=entry.files, digest=entry.digest) == entry
    )


def test_every_length_of_every_package_is_run_on_every_unit(
    models: Path, entry: BundleEntry, mac: Mac, predictor: StandInPredictor
) -> None:
    finished(models, mac)
    assert set(predictor.calls) == {
        (f"{stem}.mlmodelc", unit, (1, length)) for stem in PACKAGES for unit in UNITS for length in LENGTHS
    }


@pytest.mark.parametrize("runs", [1, 3])
def test_one_item_of_each_length_runs_again_as_often_as_is_asked_for(
    models: Path, entry: BundleEntry, mac: Mac, predictor: StandInPredictor, runs: int
) -> None:
    done = finished(models, mac, units=("ALL",), runs=runs)
    assert [unit.runs for one in done.reports for unit in one.units] == [runs] * 2
    calls = Counter(predictor.calls)
    # 25 texts fit the shortest length, one of which is run in each of the others too.
    assert [calls["Tiny.mlmodelc", "ALL", (1, length)] for length in LENGTHS] == [25 + runs, 1 + runs, 1 + runs]


def test_the_report_says_where_and_with_what_each_unit_ran(models: Path, entry: BundleEntry, mac: Mac) -> None:
    done = finished(models, mac)
    found = standins.report(models / "coreml/reports/Tiny.json")
    assert found == done.reports[0]
    assert (found.host.model, found.host.chip, found.host.memory) == ("Mac14,2", "Apple M2", 16 << 30)
    assert (found.host.macos, found.host.macos_build) == ("15.6", "24G84")
    assert found.tools == {
        "xcode": "Xcode 16.4, Build version 16F6",
        "coremlcompiler": "3404.16.1",
        "stand-in for coremltools": "0",
    }
    assert (found.bundle, found.version, found.digest) == (NAME, "1.0.0", entry.digest)
    assert [one.unit for one in found.units] == list(UNITS)
    for one in found.units:
        assert one.passed
        # 25 texts, the shortest of them in each of the three lengths.
        assert one.items == 27
        assert set(one.latency_ms) == {str(length) for length in LENGTHS}
        assert one.load_ms is not None
        assert one.figures is not None
        assert one.figures.max_abs_diff < 1e-6
        assert one.figures.mean_cosine > 0.999999
        assert one.figures.own_mean_cosine is None
        assert one.placement == {"cpu": 3, "gpu": 0, "neural_engine": 0}


def test_neither_manifest_nor_report_names_the_machine_or_its_user(
    models: Path, entry: BundleEntry, mac: Mac, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(models, mac)
    for path in (models / manifest.MANIFEST_NAME, *(models / "coreml/reports").iterdir()):
        text = path.read_text()
        assert socket.gethostname() not in text
        assert str(models) not in text
        assert f'"{getpass.getuser()}"' not in text
    fields = set(PackageReport.__struct_fields__) | set(report.UnitReport.__struct_fields__)
    assert not [name for name in fields if "time" in name or "date" in name]


def test_a_second_mac_replaces_what_the_first_left(
    models: Path, entry: BundleEntry, mac: Mac, xcode: Callable[[str], None]
) -> None:
    first = {ref.path: ref for ref in finished(models, mac).entry.files}
    xcode("is newer")
    now = finished(models, mac, units=("CPU_ONLY",)).entry
    assert now.version == "1.0.2"
    second = {ref.path: ref for ref in now.files}
    assert len(second) == len(now.files)
    for stem in PACKAGES:
        folder = f"coreml/{stem}.mlmodelc"
        # What both compilers write under one name is the second's.
        assert second[f"{folder}/coremldata.bin"] != first[f"{folder}/coremldata.bin"]
        assert b"newly compiled" in (models / folder / "coremldata.bin").read_bytes()
        # What only the first wrote is neither listed nor there.
        assert f"{folder}/model.mil" in first.keys() - second.keys()
        assert sorted(path.name for path in (models / folder).iterdir()) == ["coremldata.bin", "model.milb", "weights"]
        assert [one.unit for one in standins.report(models / f"coreml/reports/{stem}.json").units] == ["CPU_ONLY"]
    on_disk = tiny.contents(models)
    assert all(on_disk[path] == ref for path, ref in second.items())


def test_fp32_keeps_its_own_gate_on_the_cpu_and_an_angle_elsewhere(entry: BundleEntry) -> None:
    fp32, int8 = entry.artifacts
    assert gate_for(fp32, "CPU_ONLY").max_abs_diff == standins.PARITY_GATE
    for unit in UNITS[1:]:
        gate = gate_for(fp32, unit)
        assert (gate.max_abs_diff, gate.mean_cosine, gate.lowest_cosine) == (None, SAME_MEAN, SAME_LOWEST)
    for unit in UNITS:
        gate = gate_for(int8, unit)
        assert (gate.max_abs_diff, gate.mean_cosine, gate.lowest_cosine) == (None, 0.994, 0.944)
        assert (gate.own_mean_cosine, gate.own_lowest_cosine) == (SAME_MEAN, SAME_LOWEST)


def test_no_gate_is_kept_by_what_is_not_a_number(entry: BundleEntry) -> None:
    nan = float("nan")
    for unit in ("CPU_ONLY", "ALL"):
        for artifact in entry.artifacts:
            assert gate_for(artifact, unit).missed(Figures(nan, nan, nan, nan, nan))  # type: ignore[arg-type]
    int8 = gate_for(entry.artifacts[1], "ALL")
    assert int8.missed(Figures(0.0, 1.0, 1.0, 1.0, 1.0)) is None
    assert "goldens hold none" in str(int8.missed(Figures(0.0, 1.0, 1.0)))
    assert int8.missed(Figures(0.0, 1.0, 1.0, nan, 1.0))
    assert int8.missed(Figures(0.0, 1.0, 1.0, 1.0, nan))


@pytest.mark.parametrize(("by", "passes"), [(1e-5, True), (5e-4, False)])
def test_the_gpu_s_rounding_passes_and_a_wrong_angle_does_not(
    models: Path, entry: BundleEntry, mac: Mac, predictor: StandInPredictor, by: float, passes: bool
) -> None:
    predictor.changes["CPU_AND_GPU"] = turned(by)
    if passes:
        assert finished(models, mac).entry.version == "1.0.1"
    else:
        assert "coreml/Tiny.mlpackage on CPU_AND_GPU: mean cosine" in refused(models, mac, ParityError)


def test_the_same_rounding_on_the_cpu_misses_fp32_s_gate_alone(
    models: Path, entry: BundleEntry, mac: Mac, predictor: StandInPredictor
) -> None:
    predictor.changes["CPU_ONLY"] = turned(1e-5)
    said = refused(models, mac, ParityError)
    assert "coreml/Tiny.mlpackage on CPU_ONLY: largest difference" in said
    assert "the gate is 1e-05" in said
    assert "Tiny_int8" not in said


def test_a_variant_is_held_to_what_it_gave_on_linux_where_its_own_gate_is_wide(
    models: Path, entry: BundleEntry, mac: Mac, predictor: StandInPredictor
) -> None:
    predictor.changes["CPU_AND_GPU"] = turned(0.002)
    said = refused(models, mac, ParityError)
    assert (
        "Tiny_int8.mlpackage on CPU_AND_GPU: mean cosine with its outputs on Linux 0.998000, the gate is 0.9999" in said
    )


def test_one_text_that_overflows_is_found_although_the_mean_holds(
    models: Path, entry: BundleEntry, mac: Mac, predictor: StandInPredictor
) -> None:
    calls = iter(range(1000))
    predictor.changes["CPU_AND_NE"] = lambda outputs: turned(0.0015)(outputs) if next(calls) == 3 else outputs
    said = refused(models, mac, ParityError)
    assert "on CPU_AND_NE: lowest cosine" in said


def _nan(outputs: standins.Arrays) -> standins.Arrays:
    return {"embeddings": np.where(np.arange(standins.DIMENSION) == 5, np.nan, outputs["embeddings"])}


def _raise(outputs: standins.Arrays) -> standins.Arrays:
    raise RuntimeError("E5RT encountered an STL exception")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_nan, "output 'embeddings' is not finite"),
        (
            lambda outputs: {"embeddings": outputs["embeddings"].T},
            "has the shape [384, 1], the reference gave [1, 384]",
        ),
        (lambda outputs: {"var_12": outputs["embeddings"]}, "output 'embeddings' is missing; there is var_12"),
        (lambda outputs: {}, "output 'embeddings' is missing; there is none"),
        (_raise, "RuntimeError: E5RT encountered an STL exception"),
        (lambda outputs: {"embeddings": 0 * outputs["embeddings"]}, "mean cosine 0.000000"),
    ],
    ids=["nan", "shape", "name", "nothing", "raises", "zeros"],
)
def test_a_unit_that_computes_otherwise_ends_it_and_is_named(
    models: Path, entry: BundleEntry, mac: Mac, predictor: StandInPredictor, change: standins.Change, words: str
) -> None:
    predictor.changes["CPU_AND_NE"] = change
    said = refused(models, mac, ParityError)
    assert "Tiny.mlpackage on CPU_AND_NE" in said
    assert words in said
    assert "CPU_AND_GPU" not in said


def test_a_model_that_a_unit_cannot_load_misses_its_gate(
    models: Path, entry: BundleEntry, mac: Mac, predictor: StandInPredictor
) -> None:
    predictor.refuses = ("ALL",)
    assert "on ALL: loading it: Exception: Error compiling model" in refused(models, mac, ParityError)
    assert finished(models, mac, units=UNITS[:3]).entry.version == "1.0.1"


def test_reports_are_handed_on_also_where_a_gate_is_missed(
    models: Path, entry: BundleEntry, mac: Mac, predictor: StandInPredictor
) -> None:
    predictor.changes["ALL"] = _nan
    told: list[PackageReport] = []
    refused(models, mac, ParityError, on_report=told.append)
    assert [one.package for one in told] == ["coreml/Tiny.mlpackage", "coreml/Tiny_int8.mlpackage"]
    assert [unit.passed for unit in told[0].units] == [True, True, True, False]


def test_a_plan_that_cannot_be_had_is_no_failure_and_said(
    models: Path, entry: BundleEntry, mac: Mac, predictor: StandInPredictor
) -> None:
    predictor.plans = False
    (one, *_) = finished(models, mac).reports[0].units
    assert (one.passed, one.placement, one.placement_failure) == (True, None, "planning it: RuntimeError: no plan")


def test_a_failing_compiler_s_words_are_in_the_message(
    models: Path, entry: BundleEntry, mac: Mac, xcode: Callable[[str], None]
) -> None:
    xcode("fails")
    said = refused(models, mac, MachineError)
    assert "Error parsing MIL: unknown operator" in said
    assert "Tiny.mlpackage" in said


def test_a_compiler_that_leaves_nothing_is_not_believed(
    models: Path, entry: BundleEntry, mac: Mac, xcode: Callable[[str], None]
) -> None:
    xcode("leaves nothing")
    assert "left no Tiny.mlmodelc" in refused(models, mac, MachineError)


def test_a_link_in_what_was_compiled_is_refused(
    models: Path, entry: BundleEntry, mac: Mac, xcode: Callable[[str], None]
) -> None:
    xcode("leaves a link")
    assert "passwd" in refused(models, mac, RefusedError)


@pytest.mark.parametrize(
    "path", ["coreml/Tiny.mlpackage/Data/com.apple.CoreML/weights/weight.bin", standins.TOKENIZER, standins.GOLDEN]
)
def test_a_changed_file_is_noticed_before_anything_is_compiled(
    models: Path, entry: BundleEntry, mac: Mac, predictor: StandInPredictor, path: str
) -> None:
    (models / path).write_bytes(b"changed")
    assert path in refused(models, mac, IntegrityError)
    assert not predictor.calls


@pytest.mark.parametrize("gone", [True, False], ids=["taken away", "changed"])
def test_a_file_that_changes_during_the_replays_ends_it_and_is_named(
    models: Path, entry: BundleEntry, mac: Mac, gone: bool
) -> None:
    victim = models / standins.GOLDEN

    def change(told: PackageReport) -> None:
        # After the last replay, which would notice it.
        if told.package != "coreml/Tiny_int8.mlpackage":
            return
        victim.unlink(missing_ok=True) if gone else victim.write_bytes(b"changed")

    with pytest.raises(IntegrityError, match=standins.GOLDEN):
        finished(models, mac, on_report=change)
    assert manifest.read(models).bundle(NAME) == entry
    assert not (models / "coreml/Tiny.mlmodelc").exists()


def test_a_full_disk_leaves_the_earlier_version_whole(
    models: Path, entry: BundleEntry, mac: Mac, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shutil.copyfile

    def full(source: Path, target: Path) -> None:
        if str(source).endswith("reports/Tiny_int8.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        whole(source, target)

    monkeypatch.setattr("modelbake.install.shutil.copyfile", full)
    assert "is full" in refused(models, mac, MachineError)


KILLED = """
import os, platform, signal, sys
from pathlib import Path
platform.system = lambda: "Darwin"
from modelbake import manifest
from modelbake.digests import Digests
from modelbake.finish.bundle import find_mac, finish
from tests.unit.finish.standins import NAME, StandInPredictor

def kill(outputs):
    os.kill(os.getpid(), signal.SIGKILL)

models = Path(sys.argv[1])
mac = find_mac(lambda: StandInPredictor(changes={"ALL": kill}))
finish(models, manifest.read(models).bundle(NAME), mac, Digests(models.parent / "cache"), runs=1)
"""


def test_killed_between_compiling_and_installing_nothing_is_half_written(
    models: Path, entry: BundleEntry, mac: Mac
) -> None:
    before = tiny.contents(models)
    environment = os.environ | {"TMPDIR": str(models.parent / "tmp")}
    done = subprocess.run([sys.executable, "-c", KILLED, str(models)], cwd=ROOT, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert tiny.contents(models) == before
    # It was killed with compiled packages at hand.
    assert list((models.parent / "tmp").rglob("*.mlmodelc"))
    assert finished(models, mac).entry.version == "1.0.1"


def test_the_version_is_the_next_patch_or_a_higher_one_that_was_given(
    models: Path, entry: BundleEntry, mac: Mac
) -> None:
    assert [next_version(v) for v in ("1.0.0", "0.9.9", "12.0.41")] == ["1.0.1", "0.9.10", "12.0.42"]
    assert finished(models, mac, version="2.0.0").entry.version == "2.0.0"
    for version in ("2.0.0", "1.9.9", "2.0", "2.0.1+apple", "2.0.1\n", "\uff12.0.1", ""):
        with pytest.raises(UsageError):
            finished(models, mac, version=version)


def test_a_bundle_without_packages_is_no_name_for_this(tmp_path: Path, mac: Mac) -> None:
    models = tmp_path / "models"
    models.mkdir()
    entry = tiny.models_folder(models).bundle("tiny-text")
    with pytest.raises(UnknownNameError, match="tiny-text has no Core ML package"):
        finish(models, entry, mac, Digests(tmp_path))


def test_a_mac_that_is_too_old_for_the_package_says_so(models: Path, entry: BundleEntry, mac: Mac) -> None:
    old = replace(mac.host, macos="12.7.6")
    assert "needs macOS 13.0, and this Mac has 12.7.6" in refused(
        models, Mac(old, mac.tools, mac.predictor), MachineError
    )


def test_another_system_cannot_finish() -> None:
    with pytest.raises(MachineError, match=f"runs {platform.system()}.*docs/coreml-mac.md"):
        find_mac()


def test_without_xcode_or_coremltools_a_mac_cannot_finish(
    xcode: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    xcode("no compiler")
    with pytest.raises(MachineError, match=r'unable to find utility "coremlcompiler"[^\n]*\nInstall Xcode'):
        find_mac(StandInPredictor)
    xcode("works")
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MachineError, match=r"pip install '\.\[finish\]'"):
        find_mac(Coremltools)
    (tmp_path / "programs" / "xcrun").unlink()
    with pytest.raises(MachineError, match="xcrun is not on this machine"):
        find_mac(StandInPredictor)


def test_a_part_of_a_finished_bundle_has_its_own_compiled_files_alone(
    models: Path, entry: BundleEntry, mac: Mac
) -> None:
    part = part_of(finished(models, mac).entry, Wanted(precision="int8"))
    compiled = {ref.path for ref in part.files if ".mlmodelc/" in ref.path or "/reports/" in ref.path}
    assert compiled
    assert all("Tiny_int8" in path for path in compiled)
    manifest.decode(manifest.encode(Manifest(manifest.SCHEMA_VERSION, (part,))), "part")


@pytest.mark.parametrize("left_out", ["report", "compiled"])
def test_a_manifest_that_claims_a_mac_without_its_report_is_refused(
    models: Path, entry: BundleEntry, left_out: str
) -> None:
    fp32 = entry.artifacts[0]
    assert fp32.coreml is not None
    fields = {"report": standins.GOLDEN, "compiled": fp32.coreml.package, left_out: None}
    coreml = replace(fp32.coreml, verified_on="apple", **fields)
    lying = replace(entry, artifacts=(replace(fp32, coreml=coreml), *entry.artifacts[1:]))
    with pytest.raises(IntegrityError, match="verified on apple"):
        manifest.decode(manifest.encode(Manifest(manifest.SCHEMA_VERSION, (lying,))), "m")


@pytest.mark.parametrize("unit", UNITS)
def test_the_units_are_those_of_coremltools_and_of_the_command(unit: Unit) -> None:
    from coremltools import ComputeUnit

    from modelbake.cli import coreml

    assert ComputeUnit[unit].name == unit
    assert len(ComputeUnit) == len(UNITS)
    assert coreml.UNITS == UNITS
