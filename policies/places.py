"""Where documents stand, beside where their rules stand."""

from collections.abc import Iterable
from dataclasses import replace

from policies.describe import title
from policies.load import Document
from policies.policyset import Place, PolicySet
from policies.ruleset import PolicyRef


def with_documents(policies: PolicySet, documents: Iterable[Document]) -> PolicySet:
    """The same set, in whose `places` each document is found by `describe.title`, too."""
    places = {
        title(PolicyRef(document.kind, document.namespace, document.name)): Place(document.file, document.line)
        for document in documents
    }
    return replace(policies, places={**places, **policies.places})
