"""The rules in force in this worker: one engine at a time, swapped whole.

INVARIANT: `engine`, `peers` and the places change together, in `swap`, on the event loop's thread. A request takes the
engine once and is judged, permitted and recorded by it alone.
"""

from collections.abc import Callable

from policies.engine import Engine
from policies.ruleset import RuleSet
from proxy.decided import MAX_PLACES, Memory, Place
from proxy.peers import Peers


class PolicyBox:
    """Current engine with atomic swap and subscribers. Without one it knows no endpoint, as a worker before its first
    rules."""

    __slots__ = ("_memory", "_places", "_subscribers", "engine", "generation", "peers", "revision")

    def __init__(self, engine: Engine | None = None) -> None:
        engine = engine or Engine(RuleSet())
        self._subscribers: list[Callable[[], None]] = []
        self.engine = engine
        self.revision = engine.revision
        self.generation = 0  # of swaps: pods and identities can change without a new revision of the policies
        self.peers = Peers(engine.ruleset)
        self._places: dict[tuple[int, int, int, int], Place] = {}
        self._memory = Memory()

    def swap(self, engine: Engine) -> None:
        """Put new rules in force. When it returns, every later request is judged by them and opaque flows that they no
        longer allow are closed."""
        peers = Peers(engine.ruleset, self.peers)
        self.engine = engine
        self.revision = engine.revision
        self.generation += 1
        self.peers = peers
        self._places = {}
        self._memory.forget()  # idle connections keep the places of long ago
        for subscriber in self._subscribers:
            subscriber()

    def place(self, endpoint_id: int, direction: int, identity: int, port: int) -> Place:
        """What the rules in force say of one peer at one port, with the verdicts remembered for it. Good until the next
        swap."""
        key = (endpoint_id, direction, identity, port)
        place = self._places.get(key)
        if place is None:
            engine = self.engine
            endpoint = engine.ruleset.endpoints.get(endpoint_id)
            place = Place(
                engine.connection(*key),
                engine.protocol_of(*key),
                self.generation,
                self._memory,
                closes_denied=endpoint is not None and endpoint.direction(direction).close_denied,
                reads_headers=engine.reads_headers(*key),
            )
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            self._places[key] = place
        return place

    def subscribe(self, subscriber: Callable[[], None]) -> None:
        """Call `subscriber` after every swap."""
        self._subscribers.append(subscriber)

    def identity_of(self, address: str, direction: int) -> int:
        """Identity number that a peer with this plain address is judged by, 0 when it is nobody's."""
        return self.peers.judged(address, direction)

    def owns(self, endpoint_id: int, address: str) -> bool:
        """Whether the address is one of the endpoint's own."""
        rules = self.engine.ruleset.endpoints.get(endpoint_id)
        known = self.engine.ruleset.addresses.get(address)
        return rules is not None and known is not None and known[1] == f"{rules.namespace}/{rules.name}"
