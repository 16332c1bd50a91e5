"""Crews that many tests share, and checkpoints for them to load."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ranks.crew import Crew
from tests.ranks.models import Model, write_model


@pytest.fixture(scope="session")
def pair() -> Iterator[Crew]:
    """Two ranks, for tests that leave them as they were."""
    with Crew(2) as crew:
        yield crew


@pytest.fixture(scope="session")
def quartet() -> Iterator[Crew]:
    """Four ranks, likewise."""
    with Crew(4) as crew:
        yield crew


@pytest.fixture(params=[2, 4])
def crew(request: pytest.FixtureRequest) -> Crew:
    """Two ranks, or four."""
    found: Crew = request.getfixturevalue({2: "pair", 4: "quartet"}[request.param])
    return found


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A checkpoint on the disk: two shards of 24 MiB and 8 MiB, with tensors of all kinds."""
    return write_model(tmp_path_factory.mktemp("model"))
