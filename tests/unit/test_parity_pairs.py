"""The parity gate for rerankers: pairs as a user hands them in must become the reference's very inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from modelbake import goldens, parity
from modelbake.errors import ParityError
from modelbake.goldens import Case
from modelbake.manifest import Tokenizer
from tests.unit import tiny, tiny_reranker

PAIRS = [("red cat", "dog"), ("green", "blue blue blue blue blue")]


def case(**changes: np.ndarray) -> Case:
    made = tiny_reranker.inputs(PAIRS) | changes
    score = np.concatenate([tiny_reranker.score(query, [document]) for query, document in PAIRS])
    raw: goldens.Arrays = {"query": np.array([q for q, _ in PAIRS]), "document": np.array([d for _, d in PAIRS])}
    return Case("reranker", "one", made, {"score": score}, raw)


def replayed(folder: Path, golden: Case, max_tokens: int = tiny.MAX_TOKENS) -> float:
    (artifact,) = tiny_reranker.bundle(folder).artifacts
    goldens.write(folder / "g.npz", [golden])
    path = "tokenizer.json"
    tiny.tokenizer_file(folder / path, max_tokens)
    artifact = replace(artifact, tokenizer=Tokenizer("tokenizer.json", path, max_tokens))
    return parity.replay(folder, artifact, folder / "g.npz", tiny.GATE).max_abs_diff


def test_pairs_that_the_runtime_tokenizes_as_the_reference_did_pass(tmp_path: Path) -> None:
    assert replayed(tmp_path, case()) == 0


@pytest.mark.parametrize("name", tiny_reranker.INPUTS)
@pytest.mark.parametrize("place", [(0, 0), (1, -1), (0, -1)])
def test_one_other_number_in_any_input_fails_in_padding_too(tmp_path: Path, name: str, place: tuple[int, int]) -> None:
    changed = tiny_reranker.inputs(PAIRS)[name].copy()
    changed[place] = 1 - changed[place]
    with pytest.raises(
        ParityError, match=rf"tokenizer\.json: case 'one': the runtime's {name} are not the reference's"
    ):
        replayed(tmp_path, case(**{name: changed}))


def test_a_tokenizer_that_cuts_elsewhere_fails(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="are not the reference's"):
        replayed(tmp_path, case(), max_tokens=4)


def test_a_score_off_by_more_than_the_gate_fails(tmp_path: Path) -> None:
    golden = case()
    golden.outputs["score"] = golden.outputs["score"] + np.float32(1e-4)
    with pytest.raises(ParityError, match=r"differs from the reference by 9\.92e-05"):
        replayed(tmp_path, golden)
