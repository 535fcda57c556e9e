"""The command line as a whole: every command's help, the exit codes, one message and no traceback for any error."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from modelbake import __version__, errors
from modelbake.cli import main
from modelbake.cli.main import COMMANDS, run
from modelbake.errors import ModelbakeError
from modelbake.output import out

ROOT = Path(__file__).resolve().parents[3]


def subclasses(kind: type[ModelbakeError]) -> list[type[ModelbakeError]]:
    return [kind, *(deeper for one in kind.__subclasses__() for deeper in subclasses(one))]


def modelbake(*arguments: str, stdin: bytes = b"", **environ: str) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own."""
    code = "from modelbake.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | environ,
        input=stdin,
        capture_output=True,
        check=False,
    )


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """`fail` raises the error that a test puts in its place."""
    monkeypatch.setitem(COMMANDS, "fail", "tests.unit.cli.test_main")
    return monkeypatch


def raises(error: BaseException) -> click.Command:
    from modelbake.cli.options import speaking

    @click.command("fail")
    @speaking
    def command() -> None:
        raise error

    return command


def words_of(name: str) -> list[list[str]]:
    """The words that call a command, or each command of a group."""
    found = importlib.import_module(COMMANDS[name]).command
    return [[name, inner] for inner in found.commands] if isinstance(found, click.Group) else [[name]]


@pytest.mark.parametrize(
    "words", [words for name in COMMANDS if name != "fail" for words in words_of(name)], ids=" ".join
)
def test_every_command_explains_itself_and_its_common_options(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"Usage: modelbake {' '.join(words)} ")
    assert all(option in said for option in ("--json", "--quiet", "--verbose", "--help"))
    assert importlib.import_module(COMMANDS[words[0]]).command.name == words[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_s_file_bears_its_name(name: str) -> None:
    assert COMMANDS[name] == f"modelbake.cli.{name}"


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_the_help_lists_all_commands_and_exit_codes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(f" {name} " in said for name in COMMANDS)
    assert "8 refused for safety" in said


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"modelbake, version {__version__}\n"


def test_no_words_give_the_help_as_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("Usage: modelbake [OPTIONS] COMMAND")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["list", "--nothing"], "No such option"),
        (["list", "extra"], "extra argument"),
        (["embed"], "Missing option '--bundle'"),
        (["build", "--weights", "heavy"], "'heavy' is not one of 'auto', 'pretrained', 'sample'"),
        (["layers"], "Missing argument 'MODELS...'"),
        (["layers", ".", "--to", "x", "--count", "0"], "not in the range"),
        (["build", "--sources", "/nowhere"], "does not exist"),
    ],
)
def test_wrong_usage_is_exit_2_with_a_hint_also_as_json(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    plain = capsys.readouterr()
    assert plain.out == ""
    assert plain.err.startswith("error: ")
    assert message in plain.err
    assert plain.err.rstrip().endswith("--help`.")
    assert run([*words, "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert said["exit_code"] == 2
    assert message in said["error"]


def test_an_unknown_bundle_is_exit_3(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["build", "nothing"], ["fetch", "nothing", "--to", "/nowhere/at/all"]):
        assert run(words) == 3
        assert "There is no bundle 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["verify"], ["embed", "--bundle", "x", "--text", "y"]])
def test_a_broken_manifest_is_exit_5_and_none_is_exit_7(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "--models-dir", str(tmp_path)]) == 7
    assert "there are no models here" in capsys.readouterr().err
    (tmp_path / "model_manifest.json").write_text('{"schema_version": 1, ')
    assert run([*words, "--models-dir", str(tmp_path)]) == 5
    assert "model_manifest.json: " in capsys.readouterr().err


def test_a_policy_in_the_environment_that_is_none_is_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEIGHTS", "heavy")
    assert run(["list"]) == 2
    assert "WEIGHTS='heavy'" in capsys.readouterr().err


def test_the_exit_codes_are_those_of_the_help() -> None:
    named = {
        errors.UsageError: 2,
        errors.UnknownNameError: 3,
        errors.SourceUnreachableError: 4,
        errors.IntegrityError: 5,
        errors.ParityError: 6,
        errors.MachineError: 7,
        errors.RefusedError: 8,
    }
    assert {kind: kind.exit_code for kind in named} == named


def test_no_error_of_ours_shows_a_traceback(failing: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        if name != "fail":
            importlib.import_module(COMMANDS[name])
    importlib.import_module("modelbake.bake.run")
    importlib.import_module("modelbake.pipeline")
    for kind in subclasses(ModelbakeError):
        error = ModelbakeError.__new__(kind)
        Exception.__init__(error, "what happened")
        failing.setattr("tests.unit.cli.test_main.command", raises(error), raising=False)
        assert run(["fail"]) == error.exit_code
        assert capsys.readouterr() == ("", "error: what happened\n")
        assert run(["fail", "--json", "-q"]) == error.exit_code
        assert json.loads(capsys.readouterr().out) == {"error": "what happened", "exit_code": error.exit_code}


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (click.Abort(), 130), (MemoryError(), 7)])
def test_an_interrupt_or_too_little_memory_is_one_message(
    failing: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    failing.setattr("tests.unit.cli.test_main.command", raises(error), raising=False)
    assert run(["fail"]) == code
    assert capsys.readouterr().err.strip().startswith("error: ")


def test_a_bug_of_ours_keeps_its_traceback(failing: pytest.MonkeyPatch) -> None:
    failing.setattr("tests.unit.cli.test_main.command", raises(ZeroDivisionError()), raising=False)
    with pytest.raises(ZeroDivisionError):
        run(["fail"])


def test_one_call_s_options_do_not_stay_for_the_next(failing: pytest.MonkeyPatch) -> None:
    failing.setattr("tests.unit.cli.test_main.command", raises(ModelbakeError()), raising=False)
    run(["fail", "--json", "--quiet", "--verbose"])
    assert (out.json, out.quiet, out.verbose) == (True, True, True)
    run(["nothing"])
    assert (out.json, out.quiet, out.verbose) == (False, False, False)


def test_a_reader_that_went_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "modelbake", "list", "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_of_messages_that_went_away_does_not_stop_the_work() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "modelbake", "nothing"], cwd=ROOT, stderr=write, stdout=subprocess.PIPE, check=False
    )
    os.close(write)
    assert done.returncode == 2


def test_the_process_exits_with_the_code() -> None:
    assert modelbake("list").returncode == 0
    done = modelbake("embed", "--json", "--bundle", "x", "--text", "y", MODELBAKE_MODELS="/nowhere")
    assert done.returncode == 7
    assert json.loads(done.stdout)["exit_code"] == 7
    assert b"Traceback" not in done.stderr


def test_main_exits_with_what_run_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "run", lambda arguments: 4)
    with pytest.raises(SystemExit) as caught:
        main.main([])
    assert caught.value.code == 4
