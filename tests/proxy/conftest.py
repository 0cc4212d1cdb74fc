"""Both paths through the data plane get the same tests."""

import pytest

from tests.proxy import helpers
from tests.proxy.dialogue import Dialogue


@pytest.fixture(params=[False, True], ids=["strict", "recognised"])
def both_paths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The test runs once on the strict path alone and once with the recogniser."""
    recognise: bool = request.param
    monkeypatch.setattr(Dialogue, "recognise", recognise)
    monkeypatch.setattr(helpers, "paths", [recognise])
    return recognise
