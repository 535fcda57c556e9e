"""The step cache: made once per key, by however many processes, and never half visible."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelbake.cache import StepCache, code_digest
from modelbake.errors import MachineError, ParityError

MAKER = textwrap.dedent(
    """
    import os, sys, time
    from pathlib import Path
    from modelbake.cache import StepCache

    folder, hang = Path(sys.argv[1]), sys.argv[2] == "hang"

    def make(partial):
        with open(folder / "made", "a") as file:
            file.write("x")
        (partial / "first").write_text("first")
        print("making", flush=True)
        if hang:
            time.sleep(600)
        time.sleep(0.3)
        (partial / "second").write_text("second")

    print(StepCache(folder / "steps").result("export", {"a": 1}, make), flush=True)
    """
)


def maker(folder: Path, mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", MAKER, str(folder), mode], stdout=subprocess.PIPE, text=True)


def visible(folder: Path) -> list[str]:
    """The results that a reader would take."""
    step = folder / "steps" / "export"
    return [path.name for path in step.glob("*") if path.is_dir() and not path.suffix] if step.is_dir() else []


def test_a_result_is_made_once_per_key(tmp_path: Path) -> None:
    made: list[str] = []

    def make(folder: Path) -> None:
        made.append("x")
        (folder / "result").write_text("done")

    cache = StepCache(tmp_path)
    first = cache.result("export", {"a": 1, "b": [2]}, make)
    assert cache.result("export", {"b": [2], "a": 1}, make) == first
    assert (first / "result").read_text() == "done"
    assert len(made) == 1


def test_another_key_or_step_is_another_result(tmp_path: Path) -> None:
    cache = StepCache(tmp_path)
    results = [
        cache.result(step, key, lambda folder: None)
        for step in ("export", "verify")
        for key in ({"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, {"a": 1, "b": 1})
    ]
    assert len(set(results)) == len(results)


def test_a_failing_maker_leaves_no_result_and_the_next_succeeds(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "leftover").write_text("half")
        raise ParityError("missed")

    cache = StepCache(tmp_path / "steps")
    with pytest.raises(ParityError):
        cache.result("export", {}, fail)
    assert visible(tmp_path) == []
    made = cache.result("export", {}, lambda folder: (folder / "whole").touch())
    assert [path.name for path in made.iterdir()] == ["whole"]


def test_two_processes_at_once_make_it_once(tmp_path: Path) -> None:
    processes = [maker(tmp_path, "finish") for _ in range(2)]
    results = {process.communicate()[0].splitlines()[-1] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(results) == 1
    assert (tmp_path / "made").read_text() == "x"
    assert (Path(results.pop()) / "second").read_text() == "second"


def test_a_killed_maker_leaves_nothing_visible_and_the_next_succeeds(tmp_path: Path) -> None:
    process = maker(tmp_path, "hang")
    assert process.stdout is not None
    assert process.stdout.readline() == "making\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert visible(tmp_path) == []
    result = StepCache(tmp_path / "steps").result("export", {"a": 1}, lambda folder: (folder / "whole").touch())
    assert [path.name for path in result.iterdir()] == ["whole"]
    assert visible(tmp_path) == [result.name]


def test_a_full_disk_is_a_fault_of_the_machine(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(MachineError, match="is full"):
        StepCache(tmp_path).result("export", {}, fill)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `coded` with the modules a, b and the package `inner`, which fails when it is imported."""
    root = tmp_path / "coded"
    (root / "inner").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    for name in ("a.py", "b.py", "inner/__init__.py", "inner/c.py"):
        (root / name).write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield root
    for name in [name for name in sys.modules if name.partition(".")[0] == "coded"]:
        del sys.modules[name]


def test_the_digest_of_code_changes_with_that_module_alone(package: Path) -> None:
    before = code_digest(["coded.a"])
    (package / "b.py").write_text("changed = True\n")
    (package / "inner" / "c.py").write_text("changed = True\n")
    assert code_digest(["coded.a"]) == before
    (package / "a.py").write_text("changed = True\n")
    assert code_digest(["coded.a"]) != before


def test_the_digest_of_a_package_changes_with_everything_below_it(package: Path) -> None:
    digests = [code_digest(["coded.inner"])]
    for change in (
        lambda: (package / "inner" / "c.py").write_text("changed = True\n"),
        lambda: (package / "inner" / "c.py").rename(package / "inner" / "d.py"),
        lambda: (package / "inner" / "d.py").unlink(),
    ):
        change()
        digests.append(code_digest(["coded.inner"]))
    assert len(set(digests)) == len(digests)
    (package / "a.py").write_text("changed = True\n")
    assert code_digest(["coded.inner"]) == digests[-1]


def test_the_digest_of_code_does_not_depend_on_order_or_repetition(package: Path) -> None:
    assert code_digest(["coded.b", "coded.a", "coded.b"]) == code_digest(["coded.a", "coded.b"])
    assert code_digest(["coded.a"]) != code_digest(["coded.b"])


def test_code_that_is_not_there_has_no_digest() -> None:
    with pytest.raises(ModuleNotFoundError):
        code_digest(["modelbake.nothing_of_that_name"])
