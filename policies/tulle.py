"""Beyond Cilium: our own kind, TulleNetworkPolicy of `tulle.dev/v1`, and the annotations that any document may carry.

A TulleNetworkPolicy is a CiliumNetworkPolicy whose fields marked ONLY_OURS exist: `mode`, `onFailure` and `onChange` of
a spec, `action`, `pathExact`, `pathPrefix`, `pathTemplate` and `query` of an http rule, `action`, `topicPrefix`,
`topicGlob`, `group`, `groupPrefix`, `transactionalId`, `transactionalIdPrefix` and the role `admin` of a kafka rule.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Literal

from policies.model import Metadata, Spec, Specs
from policies.policyset import Options
from policies.source import quoted
from policies.words import Wrong

PREFIX = "tulle.dev/"
CHOICES: dict[str, tuple[str, str]] = {
    "mode": ("enforce", "audit"),
    "onFailure": ("closed", "open"),
    "onChange": ("next-request", "close-denied"),
}
"""What a document may say of itself; the first is what absent means."""


class TulleNetworkPolicy(Specs):
    """Of one namespace."""

    apiVersion: Literal["tulle.dev/v1"]
    kind: Literal["TulleNetworkPolicy"]
    metadata: Metadata

    def problems(self) -> Iterator[Wrong]:
        """Those of its specs, and what is said in a spec and in an annotation."""
        for spec, path in self.placed_specs():
            yield from spec.problems(path, self.metadata.scope)
            for name in CHOICES:
                if getattr(spec, name) is not None and PREFIX + name in self.metadata.annotations:
                    yield Wrong((*path, name), f"the annotation {PREFIX}{name} says it already", True)


def annotation_problems(annotations: Mapping[str, str]) -> Iterator[Wrong]:
    """What is wrong with our annotations; others are not ours to judge."""
    for key, value in annotations.items():
        if not key.startswith(PREFIX):
            continue
        path = ("metadata", "annotations", key)
        name = key.removeprefix(PREFIX)
        if name not in CHOICES:
            near = get_close_matches(name, CHOICES, n=1, cutoff=0.4)
            hint = f"did you mean {PREFIX}{near[0]}?" if near else ", ".join(PREFIX + each for each in CHOICES)
            yield Wrong(path, f"unknown annotation {quoted(key)}; {hint}", True)
        elif value not in CHOICES[name]:
            yield Wrong(path, f"expected {' or '.join(map(quoted, CHOICES[name]))}")


def options_of(annotations: Mapping[str, str], spec: Spec | None = None) -> Options:
    """What annotations and, in our own kind, the spec say. Both were checked."""

    def says(name: str) -> bool:
        own = getattr(spec, name) if spec is not None else None
        return (own or annotations.get(PREFIX + name)) == CHOICES[name][1]

    return Options(says("mode"), says("onFailure"), says("onChange"))
