"""Connections of pods that no proxy is in, against the rules in force: which of them a change ends, and which are said
not to be covered (agent/covered.py has the pure part)."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from agent.covered import (
    MAX_LISTED,
    MAX_REMEMBERED,
    denied,
    direct_of,
    direction_of,
    ends_of,
    uncovered,
    verdict_of,
)
from agent.decisions import DEFAULT_DENY
from agent.protected import Protected
from audit.record import FlowFacts, facts_from_denial
from policies.ruleset import EndpointRules, RuleSet
from proxy.records import both_sides, peers_of
from redirect import sockdiag
from redirect.errors import RedirectError
from redirect.sockdiag import Live

log = logging.getLogger("tulle.agent.unproxied")

HANDSHAKE_S = 2.0
"""After a change connections are looked for once more: by then a handshake that was under way has ended, unless its
segments were lost and sent again."""


class Unproxied:
    """What is done about them."""

    def __init__(self, worker_uid: int) -> None:
        self._worker_uid = worker_uid
        self.record: Callable[[FlowFacts], None] | None = None
        """Where connections are recorded that a change ends."""

    def close_denied(self, held: Protected, rules: RuleSet, *, again: bool = True) -> None:
        """End the connections that the rules in force refuse, where a policy wants that.

        again: look once more a moment later, as a handshake that was under way is no connection yet.

        Raises:
            RedirectError: the kernel does not tell, or refused.
        """
        mine = rules.endpoints.get(held.id)
        if held.close_due is None or mine is None or held.releasing_since is not None:
            return
        if not (mine.ingress.close_denied or mine.egress.close_denied):
            held.close_due = None
            return
        live = direct_of(held.netns, held.addresses, self._worker_uid)
        for one in denied(mine, peers_of(rules), live):
            if sockdiag.destroy(held.netns, one):
                self._record(rules, mine, one)
        held.close_due = time.monotonic() + HANDSHAKE_S if again else None

    def close_late(self, pods: Iterable[Protected], rules: RuleSet) -> None:
        """Look again for connections that a change refuses: called several times a second."""
        for held in pods:
            if held.close_due is not None and time.monotonic() > held.close_due:
                try:
                    self.close_denied(held, rules, again=False)
                except (OSError, RedirectError) as error:
                    log.error("pod '%s/%s': connections that a change refuses may go on: %s", *held.key, error)

    def _record(self, rules: RuleSet, mine: EndpointRules, live: Live) -> None:
        direction = direction_of(live)
        local, remote = (str(live.local), live.local_port), (str(live.remote), live.remote_port)
        source, destination = (remote, local) if live.inbound else (local, remote)
        line = verdict_of(mine, peers_of(rules), live).enforced.line
        log.info("pod '%s/%s': a connection with %s is ended by a change", mine.namespace, mine.name, live.remote)
        if self.record is not None:
            self.record(
                facts_from_denial(
                    direction,
                    *both_sides(rules, mine.id, direction, source, destination),
                    rule=line.name if line is not None else DEFAULT_DENY,
                    revision=rules.revision,
                    reason="policy_changed",
                    policies=(line.policy,) if line is not None else mine.direction(direction).policies,
                )
            )

    def remember_older(self, held: Protected, began: tuple[bool, bool]) -> None:
        """Connections of the directions that have come under policy just now. Looked at afterwards: one that began in
        the moment between is called older, and not the other way round."""
        try:
            live = direct_of(held.netns, held.addresses, self._worker_uid)
        except RedirectError as error:  # what is enforced does not hang on it
            log.warning("pod '%s/%s': connections older than its policy are not known: %s", *held.key, error)
            return
        older = [ends_of(one) for one in live if began[direction_of(one)]]
        if len(older) > MAX_REMEMBERED:
            log.warning("pod '%s/%s': %d connections older than its policy", *held.key, len(older))
        held.older |= frozenset(older[:MAX_REMEMBERED])

    async def uncovered(
        self, pods: Iterable[Protected], rules: RuleSet, budget_s: float
    ) -> tuple[list[dict[str, object]], int]:
        """Connections that enforcement does not reach, and how many more there are, as far as could be looked in this
        time; a pod that could not be looked at counts as one."""
        found: list[dict[str, object]] = []
        unlisted = 0
        deadline = time.monotonic() + budget_s
        for held in list(pods):
            mine = rules.endpoints.get(held.id)
            if mine is None or held.releasing_since is not None or held.attached is None:
                continue
            if time.monotonic() > deadline:
                unlisted += 1
                continue
            try:
                live = direct_of(held.netns, held.addresses, self._worker_uid)
            except (OSError, RedirectError):  # a pod that is just going
                continue
            held.older &= {ends_of(one) for one in live}
            of_pod = uncovered(mine, peers_of(rules), live, held.older)
            found += of_pod[:MAX_LISTED]
            unlisted += len(of_pod[MAX_LISTED:])
            await asyncio.sleep(0)
        return found, unlisted
