"""Documents to one PolicySet: selectors and patterns checked; every mistake is found here or in load."""

from collections.abc import Iterable
from dataclasses import dataclass

from policies.load import Document


@dataclass(frozen=True, slots=True)
class PolicySet:
    """What all documents say, independent of any pod. digest: the same documents give the same text."""

    digest: str = ""


def compile_policies(documents: Iterable[Document]) -> PolicySet:
    """Compile all documents together.

    Raises:
        PolicyError: with every problem of every document.
    """
    raise NotImplementedError
