"""The boundary regressor's network, its training, and the files that its export writes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelbake import goldens
from modelbake.bundle import Bundle, TextEncoderModel
from modelbake.catalog import Catalog
from modelbake.errors import RefusedError, SourceUnreachableError, UsageError
from modelbake.export.artifact import Export
from modelbake.export.boundary_regressor import export
from modelbake.export.boundary_regressor.data import Split, TrainingData, read, split_by_video
from modelbake.export.boundary_regressor.model import BOUND, SHORTEST, BoundaryRegressor
from modelbake.export.boundary_regressor.train import GRID, PATIENCE, Epoch, Score, adjust, score, train

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ROOT / "models" / "regressor"
WEIGHTS = "regressor/boundary_regressor_pretrained.pth"
GRAPH = "onnx/boundary_regressor.onnx"
FEATURES = ("text_features", "start_image_features", "end_image_features")
DAY = 86_400.0


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Catalog(ROOT / "bundles").get("boundary-regressor")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def exported(bundle: Bundle, out: Path) -> Export:
    return export(bundle, SOURCES, out)


@pytest.fixture(scope="module")
def sample() -> TrainingData:
    return read(SOURCES / "sample_training_data.json")


@pytest.fixture(scope="module")
def split(sample: TrainingData) -> Split:
    return split_by_video(sample, 0, "sample")


def untrained(split: Split, seed: int) -> BoundaryRegressor:
    torch.manual_seed(seed)
    network = BoundaryRegressor()
    network.standardise([arguments(split.train)])
    return network.eval()


def arguments(rows: TrainingData) -> list[torch.Tensor]:
    arrays = (rows.text_features, rows.start_image_features, rows.end_image_features, rows.segments)
    return [torch.from_numpy(array) for array in arrays]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_bundle_pins_the_sample_data_that_is_there(bundle: Bundle) -> None:
    (pin,) = bundle.files
    content = (SOURCES / pin.path).read_bytes()
    assert (pin.sha256, pin.size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert bundle.pinned


def test_the_export_names_every_file_that_it_wrote(exported: Export, out: Path) -> None:
    (draft,) = exported.drafts
    named = {draft.path, *draft.external_data, exported.goldens, *exported.extra_files}
    assert named == {GRAPH, WEIGHTS, "goldens/boundary-regressor.npz"} == set(contents(out))


def test_the_graph_takes_features_and_seconds_in_float32_at_any_batch_size(exported: Export) -> None:
    (draft,) = exported.drafts
    assert draft.role == "boundary_regressor"
    assert {(t.name, t.dtype, t.shape) for t in draft.inputs} == {
        *((name, "float32", ("batch", 512)) for name in FEATURES),
        ("segment", "float32", ("batch", 2)),
    }
    assert [(t.name, t.dtype, t.shape) for t in draft.outputs] == [("adjusted_segment", "float32", ("batch", 2))]


def test_onnx_runtime_replays_the_goldens_within_the_gate(bundle: Bundle, exported: Export, out: Path) -> None:
    session = onnxruntime.InferenceSession(str(out / GRAPH), providers=["CPUExecutionProvider"])
    sizes = set()
    for case in goldens.read(out / exported.goldens):
        (found,) = session.run(["adjusted_segment"], case.inputs)
        expected = case.outputs["adjusted_segment"]
        assert np.abs(found - expected).max() <= bundle.gates.max_abs_diff
        assert np.abs(expected - case.inputs["segment"]).max() > 0.1
        sizes.add(len(expected))
    assert sizes == {1, 3, 17}


def test_goldens_are_the_double_precision_outputs_of_the_weights_written(exported: Export, out: Path) -> None:
    network = BoundaryRegressor()
    network.load_state_dict(torch.load(out / WEIGHTS, weights_only=True))
    network.double().eval()
    for case in goldens.read(out / exported.goldens):
        inputs = [torch.from_numpy(case.inputs[name]).double() for name in (*FEATURES, "segment")]
        with torch.inference_mode():
            expected = network(*inputs).numpy().astype(np.float32)
        np.testing.assert_array_equal(case.outputs["adjusted_segment"], expected)


def test_two_exports_write_identical_bytes_whatever_torch_was_set_to(
    bundle: Bundle, exported: Export, out: Path, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(12345)
    torch.set_num_threads(3 - min(threads, 2))
    try:
        assert export(bundle, SOURCES, tmp_path) == exported
    finally:
        torch.set_num_threads(threads)
    assert contents(tmp_path) == contents(out)


def test_the_bytes_do_not_depend_on_the_instructions_that_the_processor_offers(
    bundle: Bundle, exported: Export, out: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from modelbake.bundle import parse_bundle;"
        "from modelbake.export.boundary_regressor import export;"
        "export(parse_bundle(Path(sys.argv[1]).read_text(), sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))"
    )
    definition = ROOT / "bundles" / "boundary-regressor" / "bundle.toml"
    plain = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
    subprocess.run([sys.executable, "-c", code, str(definition), str(SOURCES), str(tmp_path)], env=plain, check=True)
    assert contents(tmp_path) == contents(out)
    # The margin that makes it so: weights stand on a grid far coarser than what summing in another order moves them by.
    for tensor in torch.load(out / WEIGHTS, weights_only=True).values():
        assert torch.equal(tensor.double() * GRID, (tensor.double() * GRID).round())


def test_the_bundle_says_the_seed_and_the_most_epochs(bundle: Bundle, sample: TrainingData, tmp_path: Path) -> None:
    model = msgspec.structs.replace(bundle.model, seed=1, epochs=3)
    export(msgspec.structs.replace(bundle, model=model), SOURCES, tmp_path)
    written = torch.load(tmp_path / WEIGHTS, weights_only=True)
    split = split_by_video(sample, 1, "sample")

    def same(seed: int, epochs: int) -> bool:
        state = train(split, seed, epochs).network.state_dict()
        return all(torch.equal(tensor, written[name]) for name, tensor in state.items())

    assert same(1, 3)
    assert not same(0, 3)
    assert not same(1, 4)


@pytest.mark.parametrize("seed", range(4))
def test_trained_weights_beat_no_adjustment_and_random_weights_on_videos_never_seen(
    sample: TrainingData, seed: int
) -> None:
    split = split_by_video(sample, seed, "sample")
    rows = split.test
    trained = score(adjust(train(split, seed, 200).network, rows), rows.targets)
    others = [score(rows.segments, rows.targets)]
    others += [score(adjust(untrained(split, other), rows), rows.targets) for other in range(5)]
    assert trained.mean_absolute_error < 0.7 * min(other.mean_absolute_error for other in others)
    assert trained.mean_iou > 0.05 + max(other.mean_iou for other in others)


def test_training_stops_when_validation_no_longer_improves_and_keeps_the_best_weights(split: Split) -> None:
    trained = train(split, 0, 1000)
    losses = [epoch.validation_loss for epoch in trained.epochs]
    assert losses[trained.best_epoch - 1] == min(losses)
    assert len(losses) == trained.best_epoch + PATIENCE < 1000
    told: list[Epoch] = []
    shorter = train(split, 0, trained.best_epoch, told.append)
    assert shorter.epochs == tuple(told) == trained.epochs[: trained.best_epoch]
    pairs = zip(shorter.network.parameters(), trained.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_training_leaves_torch_as_it_found_it(split: Split) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    torch.set_num_threads(2)
    try:
        train(split, 0, 1)
        assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (2, False)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.rand(3), expected)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-10, DAY, width=32), st.floats(-10, DAY, width=32)), min_size=1, max_size=8),
    st.integers(0, 2**31),
    st.sampled_from([1.0, 30.0, 1000.0]),
)
def test_start_stays_before_end_and_not_below_zero_whatever_segment_and_weights(
    segments: list[tuple[float, float]], seed: int, gain: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    network = BoundaryRegressor().eval()
    with torch.inference_mode():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * gain)
        features = [torch.randn(len(segments), 512, generator=generator) for _ in range(3)]
        adjusted = network(*features, torch.tensor(segments))
    assert (adjusted[:, 0] >= 0).all()
    assert (adjusted[:, 0] < adjusted[:, 1]).all()


def test_a_boundary_moves_by_no_more_than_its_share_of_the_length(split: Split) -> None:
    network = untrained(split, 0)
    with torch.no_grad():
        network.last.bias.copy_(torch.tensor([50.0, -50.0]))
        start, end = network(*(part[:1] for part in arguments(split.test)[:3]), torch.tensor([[20.0, 30.0]]))[0]
    assert (float(start), float(end)) == pytest.approx((20 + 10 * BOUND, 30 - 10 * BOUND))


def test_a_reversed_segment_counts_as_a_short_one_at_its_start(split: Split) -> None:
    network = untrained(split, 0)
    rows = [part[:1] for part in arguments(split.test)[:3]]
    with torch.inference_mode():
        reversed_segment = network(*rows, torch.tensor([[20.0, 3.0]]))
        short = network(*rows, torch.tensor([[20.0, 20.0 + SHORTEST]]))
    assert torch.equal(reversed_segment, short)


def test_only_the_direction_of_features_counts_and_not_their_norm(split: Split) -> None:
    network = untrained(split, 0)
    *features, segment = arguments(split.test)
    with torch.inference_mode():
        torch.testing.assert_close(network(*(8 * part for part in features), segment), network(*features, segment))


def test_features_without_a_direction_give_finite_seconds(split: Split) -> None:
    with torch.inference_mode():
        adjusted = untrained(split, 0)(*(torch.zeros(1, 512) for _ in range(3)), torch.tensor([[1.0, 2.0]]))
    assert adjusted.isfinite().all()


def test_score_is_the_mean_error_of_both_boundaries_and_the_mean_overlap() -> None:
    found = np.array([[1, 3], [0, 1], [5, 9]], dtype=np.float32)
    true = np.array([[2, 4], [2, 4], [5, 9]], dtype=np.float32)
    assert score(found, true) == Score(pytest.approx((1 + 1 + 2 + 3) / 6), pytest.approx((1 / 3 + 0 + 1) / 3))


def test_a_bundle_of_another_kind_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    other = msgspec.structs.replace(bundle, model=TextEncoderModel("some-model", 128))
    with pytest.raises(UsageError, match="text_encoder"):
        export(other, SOURCES, tmp_path)


def test_data_that_was_not_fetched_is_a_source_out_of_reach(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachableError, match=r"sample_training_data\.json"):
        export(bundle, tmp_path, tmp_path)


@pytest.mark.parametrize("field", ["model", "data"])
def test_a_path_that_leaves_the_folder_is_refused(bundle: Bundle, tmp_path: Path, field: str) -> None:
    model = msgspec.structs.replace(bundle.model, **{field: "../elsewhere"})
    with pytest.raises(RefusedError, match=r"\.\./elsewhere"):
        export(msgspec.structs.replace(bundle, model=model), SOURCES, tmp_path)
