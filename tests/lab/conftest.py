"""Labs for the tests: one without agents for the whole session, and fresh names with certain cleanup."""

from collections.abc import Iterator

import pytest

from tests.lab.helpers import LabUnderTest, unique_name


@pytest.fixture(scope="session")
def bare() -> Iterator[LabUnderTest]:
    """The default lab without agents; tests must leave it as they found it."""
    lab = LabUnderTest(unique_name())
    try:
        lab.must("up", "--no-agent")
        yield lab
    finally:
        lab.must("down")


@pytest.fixture
def fresh() -> Iterator[LabUnderTest]:
    """A name that no lab has; whatever the test makes of it is taken down."""
    lab = LabUnderTest(unique_name())
    try:
        yield lab
    finally:
        lab.must("down")
