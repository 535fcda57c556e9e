"""What is said where: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import pty
import sys

import pytest

from modelbake.output import Output, table


def test_messages_go_to_standard_error_and_quiet_hides_all_but_warnings_and_errors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for quiet, expected in ((False, "a\nWARNING: c\nerror: d\n"), (True, "WARNING: c\nerror: d\n")):
        out = Output(quiet=quiet)
        out.info("a")
        out.detail("b")
        out.warn("c")
        out.error("d", 5)
        assert capsys.readouterr() == ("", expected)


def test_details_show_with_verbose_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Output(verbose=True).detail("b")
    assert capsys.readouterr().err == "b\n"


def test_a_result_is_its_lines_or_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    Output().result({"name": "é"}, ["one", "two"])
    Output(json=True).result({"name": "é"}, ["one", "two"])
    assert capsys.readouterr() == ('one\ntwo\n{"name": "é"}\n', "")


def test_an_error_is_an_object_on_standard_output_too_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=True).error("what happened", 4)
    found = capsys.readouterr()
    assert json.loads(found.out) == {"error": "what happened", "exit_code": 4}
    assert found.err == "error: what happened\n"


def test_progress_shows_nothing_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Output().progress(10, "fetch")
    progress.update(10)
    progress.close()
    assert capsys.readouterr() == ("", "")


def test_a_terminal_where_tqdm_is_not_installed_is_spoken_to_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tqdm", raising=False)
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        Output().warn("what happened")
    assert os.read(ours, 100) == b"WARNING: what happened\r\n"
    os.close(ours)
    assert "tqdm" not in sys.modules


def test_a_table_has_columns_as_wide_as_their_widest_cell() -> None:
    assert table(["name", "n"], [["a", "1"], ["longer", "22"]]) == [
        "name    n",
        "------  --",
        "a       1",
        "longer  22",
    ]
    assert table(["name"], []) == ["name", "----"]


def test_what_a_terminal_would_obey_is_not_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    speaker = Output()
    speaker.warn("tag \x1b]0;title\x07 and \x9b2J\r")
    speaker.result(None, ["a\x1b[2Jb\tc"])
    shown = capsys.readouterr()
    assert shown.err == "WARNING: tag \ufffd]0;title\ufffd and \ufffd2J\ufffd\n"
    assert shown.out == "a\ufffd[2Jb\tc\n"
