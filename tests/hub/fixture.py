"""The pytest fixture `hub`: a running hub without repositories, closed after the test."""

from collections.abc import Iterator

import pytest

from tests.hub.server import Hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub on loopback; the test fails if one of its handlers did."""
    with Hub() as running:
        yield running
