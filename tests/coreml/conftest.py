"""The real weights of all-MiniLM-L6-v2, from whichever source of its bundle has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.conftest import environment, modelbake


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder."""
    folder = tmp_path_factory.mktemp("minilm-sources")
    modelbake("fetch", "minilm-l6-v2", "--to", str(folder), "--weights", "pretrained", environ=environment(folder))
    return folder / "minilm-l6-v2" / "files"
