"""One lab for all tests of this folder that do not break it; each starts without policies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.cluster import Cluster, cluster

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Cluster]:
    """The default lab under a name of its own."""
    with cluster() as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: Cluster) -> Iterator[Cluster]:
    """The shared lab without policies, and without them again afterwards."""
    shared_lab.delete_policies()
    yield shared_lab
    shared_lab.delete_policies()
