"""BuildKit's events, as docker printed them: read however they are cut, and what a person is told of them."""

from __future__ import annotations

import base64
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelbake.bake.buildx import BuildError, Events, _failure, read_events, seconds
from modelbake.errors import MachineError

DATA = Path(__file__).parent / "data"
FAILED = (DATA / "failed.txt").read_text(encoding="utf-8")
PASSED = (DATA / "passed.txt").read_text(encoding="utf-8")
OWN = "[trees-tiny export 1/1] RUN --network=none --mount=type=cache,id=x bash /opt/modelbake/scripts/setup_models_docker.sh build"
FOREIGN = "[converter 4/7] RUN pip install -r locks/convert.txt"


def read(text: str) -> tuple[list[dict[str, Any]], str]:
    *events, rest = read_events(io.StringIO(text))
    assert isinstance(rest, str)
    assert all(isinstance(event, dict) for event in events)
    return [event for event in events if isinstance(event, dict)], rest


def replayed(text: str, *targets: str) -> tuple[Events, list[str], str]:
    """The state after all events, the lines for a person, and the text after them."""
    found, rest = read(text)
    events = Events(targets)
    return events, [line for event in found for line in events.add(event)], rest


def vertex(name: str = FOREIGN, digest: str = "sha256:1", **fields: Any) -> dict[str, Any]:
    return {"vertexes": [{"digest": digest, "name": name, **fields}]}


def log(data: bytes, digest: str = "sha256:1") -> dict[str, Any]:
    return {"logs": [{"vertex": digest, "stream": 1, "data": base64.b64encode(data).decode()}]}


def error(code: str) -> str:
    return f'process "/bin/sh -c step" did not complete successfully: exit code: {code}'


def test_a_failed_build_is_read_to_its_end() -> None:
    events, rest = read(FAILED)
    assert len(events) == FAILED.count("\n}\n")
    assert rest.startswith("Dockerfile:11\n--------------------\n   9 |     FROM exp/base:py AS e4\n")
    assert rest.splitlines()[-1].startswith("ERROR: failed to solve:")


def test_a_build_that_passed_leaves_no_text() -> None:
    events, rest = read(PASSED)
    assert len(events) == PASSED.count("\n}\n")
    assert rest == ""


@settings(max_examples=50)
@given(st.data())
def test_the_layout_of_the_objects_does_not_matter(data: st.DataObject) -> None:
    expected, rest = read(FAILED)
    separators = data.draw(
        st.lists(st.sampled_from(["", "\n"]), min_size=len(expected) - 1, max_size=len(expected) - 1)
    )
    indents = data.draw(st.lists(st.sampled_from([None, 0, 2]), min_size=len(expected), max_size=len(expected)))
    parts = [json.dumps(event, indent=indent) for event, indent in zip(expected, indents, strict=True)]
    text = "".join(part + separator for part, separator in zip(parts, [*separators, "\n"], strict=True))
    assert read(text + rest) == (expected, rest)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["WARNING: no output specified", "12", "[1]", "{not json", "}", "null", '"x"']),
            st.integers(0, 20),
        ),
        max_size=4,
    )
)
def test_lines_that_are_no_objects_do_not_hide_those_that_are(strange: list[tuple[str, int]]) -> None:
    expected, _ = read(PASSED)
    lines = [json.dumps(event, indent=2) for event in expected]
    for line, place in strange:
        lines.insert(place, line)
    found, rest = read("\n".join(lines) + "\n")
    assert found == expected
    assert sorted(rest.splitlines()) == sorted(line for line, _ in strange)


@given(st.integers(0, len(FAILED)))
def test_a_stream_that_is_cut_anywhere_gives_what_came_whole(end: int) -> None:
    expected, _ = read(FAILED)
    found, rest = read(FAILED[:end])
    assert found == expected[: len(found)]
    whole = FAILED[:end].count("\n}\n") + (FAILED[:end].endswith("\n}") and end < len(FAILED))
    assert len(found) == whole
    assert FAILED[:end].endswith(rest)


def test_what_a_person_sees_of_a_build_is_its_steps_with_their_times() -> None:
    _, lines, _ = replayed(PASSED, "ok", "cache")
    assert len(lines) == 2
    assert " s  [cache cache 3/3] RUN --network=none id" in lines[0]
    assert lines[1].endswith("[ok okk 2/2] RUN echo ok-79; sleep 1")
    assert float(lines[1].split()[0]) == pytest.approx(1.3, abs=0.5)
    assert not any("--mount" in line for line in lines)


def test_cached_steps_and_repeated_ends_are_not_told() -> None:
    events = Events(("converter",))
    times = {"started": "2026-01-01T00:00:00Z", "completed": "2026-01-01T00:00:03Z"}
    assert events.add(vertex(cached=True, **times)) == []
    assert events.add(vertex(digest="sha256:2", **times)) == [f"   3.0 s  {FOREIGN}"]
    assert events.add(vertex(digest="sha256:2", **times)) == []


def test_times_are_those_of_each_target_s_own_steps() -> None:
    events, _, _ = replayed(PASSED, "ok", "cache")
    times = events.seconds_by_target()
    assert list(times) == ["ok", "cache"]
    assert 1 < times["ok"] < 3
    assert 0 < times["cache"] < 3
    alone, _, _ = replayed(PASSED, "ok")
    assert alone.seconds_by_target()["ok"] >= times["ok"] + times["cache"]


@pytest.mark.parametrize(
    ("started", "completed", "expected"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", 60.0),
        ("2026-01-01T00:00:00.5Z", "2026-01-01T00:00:01Z", 0.5),
        ("2026-01-01T00:00:00.123456789Z", "2026-01-01T00:00:01.1234567Z", 1.0),
        ("2026-01-01T00:00:00.25+00:00", "2026-01-01T00:00:01.5Z", 1.25),
        ("2025-12-31T23:59:59.9Z", "2026-01-01T00:00:00.1Z", 0.2),
        ("2026-01-01T00:00:00Z", None, 0.0),
        (None, None, 0.0),
    ],
)
def test_times_are_read_whatever_their_fraction(started: str | None, completed: str | None, expected: float) -> None:
    events = Events(("a",))
    events.add(vertex(started=started, completed=completed))
    assert seconds(events.vertexes["sha256:1"]) == pytest.approx(expected)


def test_a_step_that_began_anew_takes_no_negative_time() -> None:
    events = Events(("a",))
    events.add(vertex(started="2026-01-01T00:00:00Z", completed="2026-01-01T00:00:01Z"))
    events.add(vertex(started="2026-01-01T00:00:05Z"))
    assert events.seconds_by_target() == {"a": 0.0}


@given(st.lists(st.integers(0, 120), max_size=6))
def test_a_log_is_put_together_wherever_it_was_cut(cuts: list[int]) -> None:
    text = "Größe: 3 µm\nerror: the gate was missed by \N{SNOWMAN}\n\n  second line\r\nno newline at the end ☂"
    data = text.encode()
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    events = Events(())
    events.add(vertex())
    for start, end in pairwise(places):
        events.add(log(data[start:end]))
    assert events.vertexes["sha256:1"].log == [line.rstrip() for line in text.splitlines() if line.strip()]


def test_warnings_of_a_step_are_passed_on_with_the_lines_that_belong_to_them() -> None:
    events = Events(())
    events.add(vertex())
    said = events.add(log(b"fetching\nWARNING: tiny: SAMPLE WEIGHTS. Tried:\n  - hub: gone\n"))
    assert said == ["WARNING: tiny: SAMPLE WEIGHTS. Tried:", "  - hub: gone"]
    assert events.add(log(b"plain words\n")) == []
    assert events.add(log(b"WARN")) == []
    assert events.add(log(b"ING: cut in the middle\n")) == ["WARNING: cut in the middle"]


def test_a_log_of_a_step_that_nobody_told_of_is_left_out() -> None:
    assert Events(()).add(log(b"WARNING: lost\n", "sha256:unknown")) == []


def test_events_without_content_are_nothing() -> None:
    nothing: list[dict[str, Any]] = [{}, {"vertexes": None, "logs": None}, {"statuses": []}]
    for event in nothing:
        assert Events(()).add(event) == []


def test_the_step_that_failed_is_found_among_those_that_were_cancelled() -> None:
    events, _, rest = replayed(FAILED, "bundle-a", "ok", "cache")
    failed = events.failed()
    assert failed is not None
    assert failed.name.startswith("[bundle-a e4 2/2] RUN echo out-line")
    raised = _failure(events, rest)
    assert isinstance(raised, BuildError)
    # Not a step of ours, so its 4 is not one of our exit codes.
    assert raised.exit_code == 7
    assert "failed with exit code 4:\nout-line\nerr-line" in str(raised)


@pytest.mark.parametrize("code", [2, 3, 4, 5, 6, 7, 8])
def test_a_step_of_ours_gives_its_own_exit_code_and_its_own_words(code: int) -> None:
    events = Events(())
    events.add(vertex(OWN))
    events.add(log(b"tiny: exporting\nerror: an earlier try\nmore\nerror: onnx/tiny.onnx: the gate\nwas missed\n"))
    events.add(vertex(OWN, error=error(str(code))))
    raised = _failure(events, "ERROR: failed to solve")
    assert raised.exit_code == code
    assert str(raised) == "[trees-tiny export 1/1] onnx/tiny.onnx: the gate\nwas missed"


def test_a_step_of_ours_that_died_without_a_word_is_a_bug_of_ours() -> None:
    events = Events(())
    events.add(vertex(OWN))
    events.add(log(b"Traceback (most recent call last):\nZeroDivisionError\n"))
    events.add(vertex(OWN, error=error("1")))
    raised = _failure(events, "")
    assert raised.exit_code == 1
    assert "ZeroDivisionError" in str(raised)


@pytest.mark.parametrize("code", ["137", "143"])
def test_a_step_of_ours_that_was_killed_is_the_machine_s_failure(code: str) -> None:
    events = Events(())
    events.add(vertex(OWN))
    events.add(log(b"tiny: exporting\n"))
    events.add(vertex(OWN, error=error(code)))
    raised = _failure(events, "")
    assert raised.exit_code == 7
    assert "free some memory" in str(raised)


def test_only_the_end_of_a_long_log_is_told() -> None:
    events = Events(())
    events.add(vertex())
    events.add(log("".join(f"line {n}\n" for n in range(1000)).encode()))
    events.add(vertex(error=error("1")))
    said = str(_failure(events, "")).splitlines()
    assert said[1] == "line 975"
    assert said[-1] == "line 999"


@pytest.mark.parametrize("words", ["context canceled", error("137: context canceled: context canceled")])
def test_cancelled_steps_are_not_the_failure(words: str) -> None:
    events = Events(())
    events.add(vertex(OWN, error=words))
    assert events.failed() is None
    raised = _failure(events, "one\n\nERROR: failed to solve: no such host\n")
    assert isinstance(raised, MachineError)
    assert str(raised) == "docker buildx bake failed: one\nERROR: failed to solve: no such host"


def test_a_failure_without_words_says_so() -> None:
    assert str(_failure(Events(()), "\n")) == "docker buildx bake failed: it said nothing"
