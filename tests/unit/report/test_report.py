"""The report's page and timings on tiny models; tests/golden opens it in a browser."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from modelbake import goldens, manifest
from modelbake.cli.main import run
from modelbake.goldens import Case
from modelbake.inspect import inspect_models
from modelbake.manifest import FallbackRecord, Manifest, PassedOver, Tensor
from modelbake.report import speed
from modelbake.report.markup import el, page
from modelbake.report.page import render, size
from modelbake.report.plots import Bar, bars, gated
from modelbake.report.speed import Timing, measure, take
from tests.unit import tiny

# A busy machine is no failure.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Seen(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    tiny.models_folder(folder)
    monkeypatch.setenv("MODELBAKE_MODELS", str(folder))
    monkeypatch.setattr(speed, "ENOUGH", 0.001)
    return folder


def test_the_page_is_one_file_that_names_no_other(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "report.html"
    assert run(["report", "--to", str(target), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bundles"] == ["tiny-image", "tiny-text"]
    assert {(one["path"], one["batch"]) for one in said["speed"]} == {
        (f"onnx/tiny-{kind}.onnx", batch) for kind in ("image", "text") for batch in (1, 8)
    }
    assert all(one["milliseconds"] > 0 for one in said["speed"])
    html = target.read_text(encoding="utf-8")
    seen = Seen(html)
    assert {name for name, _ in seen.tags}.isdisjoint({"script", "img", "iframe", "object", "form", "a"})
    addresses = [value for _, attrs in seen.tags for name, value in attrs.items() if name in ("src", "href")]
    assert addresses == ["data:,"]
    assert "http" not in html.replace("http-equiv", "")
    assert target.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


def test_without_speed_the_same_models_give_the_same_bytes(models: Path, tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        assert run(["report", "--no-speed", "-q", "--to", str(tmp_path / name)]) == 0
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]
    assert b"On this machine" not in made[0]
    assert str(models).encode() not in made[0]


def test_sample_weights_are_shown_loudly_and_real_ones_are_not(models: Path) -> None:
    seen = Seen(render(inspect_models(models), [], ""))
    assert "SAMPLE WEIGHTS (random) in tiny-image, tiny-text" in seen.text
    assert ("p", {"class": "alarm", "role": "alert"}) in seen.tags
    manifest.write(models, Manifest(1, (tiny.text_bundle(models, weights="pretrained"),)))
    seen = Seen(render(inspect_models(models), [], ""))
    assert "SAMPLE" not in seen.text
    assert not any(attrs.get("class") == "alarm" for _, attrs in seen.tags)


def test_roles_precisions_and_figures_that_are_new_are_shown(models: Path) -> None:
    """A manifest's artifacts may get further roles, precisions and figures; the page shows them by their names."""
    (entry, _) = inspect_models(models)
    other = json.loads(json.dumps(entry["artifacts"][0]))
    other |= {"path": "onnx/x.int8.onnx", "role": "reranker", "precision": "int8"}
    other |= {"quality": {"cosine": {"mean": 0.9961, "least": 0.98}, "top_10_overlap": 0.953, "items": 400}}
    entry["artifacts"] = [*entry["artifacts"], other]
    timings = [
        Timing("tiny-image", "reranker", "onnx/x.int8.onnx", "int8", 1, 2.0, 5, 1.75, "x [1, 2]"),
    ]
    seen = Seen(render([entry], timings, "a processor, 2 cores"))
    for words in (
        "reranker",
        "int8",
        "cosine mean",
        "0.9961",
        "top_10_overlap",
        "0.953",
        "400",
        "1.75 x",
        "a processor",
    ):
        assert words in seen.text


def test_a_bundle_that_became_a_fallback_says_so(models: Path) -> None:
    assert "instead of" not in Seen(render(inspect_models(models), [], "")).text
    record = FallbackRecord("small", (PassedOver("large", "unreachable", "org/large"),))
    manifest.write(models, Manifest(1, (replace(tiny.text_bundle(models), fallback=record),)))
    assert "small instead of large (unreachable)" in Seen(render(inspect_models(models), [], "")).text


def test_a_file_that_is_gone_is_said_to_be(models: Path) -> None:
    (models / "onnx" / "tiny-text.onnx").unlink()
    assert "the file is MISSING" in Seen(render(inspect_models(models), [], "")).text


def test_an_empty_manifest_gives_a_page(models: Path) -> None:
    manifest.write(models, Manifest(1, ()))
    assert "0bundles" in Seen(render(inspect_models(models), [], "")).text


def test_standard_output_gets_the_page_itself(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", "--no-speed", "--to", "-"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("<!doctype html>\n")
    assert said.endswith("</html>\n")


def test_without_models_there_is_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "report.html"
    assert run(["report", "--to", str(target), "--models-dir", str(tmp_path)]) == 7
    assert not target.exists()


def test_a_folder_that_takes_no_file_is_the_machine_s_failure(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", "--no-speed", "--to", "/sys/report.html"]) == 7
    assert "/sys" in capsys.readouterr().err


@patient
@given(st.text(max_size=60))
def test_any_text_is_text_again(text: str) -> None:
    html = page("t", "p { color: red }", el("p", text, "|", el("b", text), text, title=text))
    seen = Seen(html.encode("utf-8", "replace").decode())
    clean = "".join("\ufffd" if (ord(c) < 32 and c not in "\t\n\r\f") or c == "\x7f" else c for c in text)
    clean = clean.encode("utf-8", "replace").decode()
    assert seen.text.strip().startswith("t")
    assert f"{clean}|{clean}{clean}" in seen.text
    (paragraph,) = [attrs for tag, attrs in seen.tags if tag == "p"]
    assert paragraph == {"title": clean}
    assert [tag for tag, _ in seen.tags].count("b") == 1


def test_a_batch_is_made_of_the_goldens_rows_over_and_over(models: Path) -> None:
    entry = manifest.read(models).bundle("tiny-text")
    (artifact,) = entry.artifacts
    (case,) = goldens.read(models / entry.goldens.path)
    made = take(artifact, case, 5)
    np.testing.assert_array_equal(made["input_ids"], case.inputs["input_ids"][[0, 1, 0, 1, 0]])


def test_an_input_without_a_free_first_dimension_stays_whole_and_dtypes_are_the_artifact_s() -> None:
    inputs = (Tensor("x", "float16", ("batch", 2)), Tensor("k", "int64", ()), Tensor("table", "float32", (3,)))
    artifact: Any = type("Fake", (), {"inputs": inputs})
    case = Case(
        "r", "c", {"x": np.ones((1, 2), np.float32), "k": np.array(3), "table": np.arange(3, dtype=np.float32)}, {}
    )
    made = take(artifact, case, 4)
    assert (made["x"].shape, made["x"].dtype) == ((4, 2), np.dtype(np.float16))
    assert made["k"].shape == ()
    np.testing.assert_array_equal(made["table"], [0, 1, 2])


def test_variants_of_one_role_are_timed_in_turns_and_compared_with_fp32(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = manifest.read(models).bundle("tiny-text")
    other: Any = replace(entry.artifacts[0], path="onnx/other.onnx")
    tiny.text_graph(models / "onnx" / "other.onnx", tiny.table())
    other = replace(other, precision="int8")
    clock = iter(range(10**6))
    order: list[str] = []
    run_session = speed.Session.run

    def noted(self: Any, inputs: Any) -> Any:
        order.append(self._path.name)
        # The tick of this call: 1 for the first artifact, 3 for the other.
        for _ in range(0 if self._path.name == "other.onnx" else 2):
            next(clock)
        return run_session(self, inputs)

    monkeypatch.setattr(speed.Session, "run", noted)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: float(next(clock)))
    found = measure(models, replace(entry, artifacts=(entry.artifacts[0], other)), (1,))
    assert order[:4] == ["tiny-text.onnx", "tiny-text.onnx", "other.onnx", "other.onnx"]
    assert [(one.precision, one.milliseconds, one.ratio) for one in found] == [
        ("fp32", 3000.0, None),
        ("int8", 1000.0, 3.0),
    ]
    assert found[0].shapes.startswith("input_ids [1, ")


def test_a_role_without_goldens_is_left_out(models: Path) -> None:
    entry = manifest.read(models).bundle("tiny-text")
    goldens.write(models / entry.goldens.path, [])
    assert measure(models, entry) == []


def test_the_machine_has_a_name() -> None:
    assert " cores, " in speed.machine()


def test_bars_are_as_long_as_their_values() -> None:
    plot = bars("t", [Bar("a", 1, "1"), Bar("b", 2, "2", "sample"), Bar("x" * 80, 0, "0")])
    widths = [float(rect.get("width", "")) for rect in plot.iter("rect")]
    assert widths[1] == pytest.approx(2 * widths[0])
    assert widths[2] > 0
    assert [rect.get("class") for rect in plot.iter("rect")] == ["bar", "bar sample", "bar"]


def test_a_decade_is_as_long_as_any_other_and_the_gate_is_a_line() -> None:
    plot = gated("t", [Bar(str(v), v, "") for v in (1e-8, 1e-7, 1e-5, 0, 1e3)], 1e-5)
    ends = [float(rect.get("x", "")) + float(rect.get("width", "")) for rect in plot.iter("rect")]
    (line,) = plot.iter("line")
    assert ends[2] - ends[1] == pytest.approx(2 * (ends[1] - ends[0]), abs=0.5)
    assert float(line.get("x1", "")) == pytest.approx(ends[2], abs=0.2)
    assert ends[3] < ends[0] < ends[4]


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (90_438_156, "90.4 MB"), (2_000_000_000, "2 GB")]
)
def test_sizes_in_words(count: int, words: str) -> None:
    assert size(count) == words
