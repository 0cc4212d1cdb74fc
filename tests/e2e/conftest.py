"""One lab for all tests of this folder that do not break it, one for those that do; each starts without policies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.cluster import Cluster, cluster
from tests.helpers.spare import SpareLab

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Cluster]:
    """The default lab under a name of its own."""
    with cluster() as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: Cluster) -> Iterator[Cluster]:
    """The shared lab without policies and without what the tests before left in its records, and without policies
    again afterwards."""
    shared_lab.delete_policies()
    shared_lab.forget()
    yield shared_lab
    shared_lab.delete_policies()


@pytest.fixture(scope="session")
def shared_kafka() -> Iterator[Cluster]:
    """A lab with one broker, for all tests of Kafka that do not break it."""
    with cluster("--with", "kafka") as lab:
        yield lab


@pytest.fixture
def kafka_lab(shared_kafka: Cluster) -> Iterator[Cluster]:
    """The same without policies and earlier records, and without policies again afterwards."""
    shared_kafka.delete_policies()
    shared_kafka.forget()
    yield shared_kafka
    shared_kafka.delete_policies()


@pytest.fixture(scope="session")
def _spare() -> Iterator[SpareLab]:
    spare = SpareLab()
    try:
        yield spare
    finally:
        spare.close()
        print(f"labs made for tests that may break one: {spare.made}; not whole: {'; '.join(spare.why) or 'none'}")


@pytest.fixture
def spare_lab(_spare: SpareLab) -> Iterator[Cluster]:
    """A lab without policies that the test may break; nobody else's meanwhile."""
    try:
        yield _spare.take()
    finally:
        _spare.give_back()


@pytest.fixture
def young_lab(_spare: SpareLab) -> Iterator[Cluster]:
    """The same, just brought up."""
    try:
        yield _spare.take(young=True)
    finally:
        _spare.give_back()
