"""Why a connection or a request is allowed or denied, rule by rule.

Theory of operation: the verdict is the engine's own, as in the data path. Beside it every rule of every document that
selects the endpoint is asked by itself; a part of a request rule is asked by an engine that holds nothing but that
part, so what is said of it cannot be another reading than the one that counts. In the end the answers are put together
by the algebra of docs/policy.md, and must give what the engine gave.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from ipaddress import ip_address, ip_network

from policies.describe import peer_text, port_text, protocol_name, title
from policies.engine import DEFAULT_ALLOW, DEFAULT_DENY, Engine, HeaderEdit, HttpRequest, KafkaRequest
from policies.inventory import Inventory, Pod
from policies.kafka import API_NAMES, acls
from policies.kafka_rules import EVERY_TOPIC
from policies.policyset import Grant, Place, PolicySet, Section
from policies.requests import Operation, Resource
from policies.resolve import plain_address, resolve
from policies.ruleset import (
    MAX_PORT,
    TCP,
    Answer,
    ConnectionVerdict,
    Direction,
    DirectionRules,
    EndpointRules,
    HttpRule,
    KafkaRule,
    Line,
    Mismatch,
    NameKind,
    PathKind,
    PolicyRef,
    Reserved,
    RuleSet,
)

NODE_PROBE = "tulle:node-probe"
"""The name that records give to what lets a probe of this node pass."""
PROTOCOL = "tulle:protocol"
"""The name that records give to what the parser refused."""
ENTITIES = {
    "world": Reserved.WORLD_IPV4,
    "world-ipv4": Reserved.WORLD_IPV4,
    "world-ipv6": Reserved.WORLD_IPV6,
    "host": Reserved.HOST,
    "remote-node": Reserved.REMOTE_NODE,
    "kube-apiserver": Reserved.KUBE_APISERVER,
}
TO_ITSELF = "a pod to itself is not judged"
LINK_LOCAL = "a link-local address names nobody: it is neither steered nor reached under egress policy"
THIS_NODE = frozenset({int(Reserved.HOST), int(Reserved.HOST_KUBE_APISERVER)})


class UnknownEnd(ValueError):
    """There is no such pod, entity or address, or it cannot be judged; the message says what is near."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a connection: at most one of http and kafka. `port` is the server's."""

    protocol: int
    port: int
    http: HttpRequest | None = None
    kafka: KafkaRequest | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """The engine's answer for one side.

    audited: it passes, and policies in mode audit would deny; rule and reason then say who. requests: the connection is
    accepted, and each request on it is judged.
    """

    allow: bool
    rule: str
    reason: str
    audited: bool = False
    requests: bool = False
    edits: tuple[HeaderEdit, ...] = ()
    """Changes to the request's headers, which the next side sees."""


@dataclass(frozen=True, slots=True)
class Considered:
    """One rule that was looked at. matched: it speaks of this peer, port and request; why: what did not fit, or what it
    does. place: None where the text is not at hand.

    l7: "http" or "kafka" for an entry that has such rules, and for these rules themselves (then rule_of_l7); l7_denies:
    one of the entry's rules denies.
    """

    rule: str
    place: Place | None
    matched: bool
    why: str
    deny: bool = False
    audit: bool = False
    l7: str = ""
    l7_denies: bool = False
    rule_of_l7: bool = False


@dataclass(frozen=True, slots=True)
class Side:
    """One end that is a pod. enforced: some policy selects it in this direction."""

    direction: Direction
    endpoint: str
    peer: str
    enforced: bool
    judgement: Judgement
    place: Place | None
    considered: tuple[Considered, ...]
    selected_by: tuple[tuple[str, Place | None], ...] = ()
    """The documents that select it in this direction, by `title`."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Both sides of a connection; it is denied when one of them denies."""

    sides: tuple[Side, ...]

    @property
    def allow(self) -> bool:
        """Whether it goes through."""
        return all(side.judgement.allow for side in self.sides)

    @property
    def audited(self) -> bool:
        """Whether it goes through and a policy in mode audit would deny it."""
        return self.allow and any(side.judgement.audited for side in self.sides)

    @property
    def decisive(self) -> Side:
        """The side that denied, or that would; else the last one that a policy selects, else the last."""
        for wanted in (
            [side for side in self.sides if not side.judgement.allow],
            [side for side in self.sides if side.judgement.audited],
            [side for side in reversed(self.sides) if side.enforced],
        ):
            if wanted:
                return wanted[0]
        return self.sides[-1]


@dataclass(frozen=True, slots=True)
class End:
    """One end of a connection: a pod, or something whose policies are not ours to judge."""

    text: str
    pod: Pod | None = None
    address: str = ""
    identity: int | None = None


def find_end(inventory: Inventory, text: str) -> End:
    """The end that a person names: `pod`, `namespace/pod`, an IP address or an entity. An address of a pod is that pod.

    Raises:
        UnknownEnd: nothing of that name.
    """
    try:
        address = ip_address(text)
    except ValueError:
        pass
    else:
        plain = str(getattr(address, "ipv4_mapped", None) or address)
        owner = _owner(inventory, plain)
        return End(f"{owner.namespace}/{owner.name}", owner) if owner is not None else End(text, address=plain)
    namespace, slash, name = text.rpartition("/")
    wanted = (namespace if slash else "default", name)
    for pod in inventory.pods:
        if (pod.namespace, pod.name) == wanted:
            return End(f"{pod.namespace}/{pod.name}", pod)
    if text in ENTITIES:
        return End(text, identity=int(ENTITIES[text]))
    names = [f"{pod.namespace}/{pod.name}" for pod in inventory.pods]
    spelt: dict[str, str] = {name: name for name in names}
    if not slash:  # as it was written: a pod of any namespace, or an entity
        spelt |= {name.partition("/")[2]: name for name in reversed(names)} | {entity: entity for entity in ENTITIES}
    near = [spelt[found] for found in get_close_matches(text, spelt, n=1)]
    if near:
        hint = f"did you mean '{near[0]}'?"
    else:
        shown = ", ".join([*sorted(names)[:10], *(["…"] if len(names) > 10 else [])])
        hint = f"there are {shown}" if names else "the inventory has no pods"
    raise UnknownEnd(f"no pod '{'/'.join(wanted)}': {hint}")


def _owner(inventory: Inventory, plain: str) -> Pod | None:
    """The pod that has the address; None when nobody, two pods or a node have it."""
    if any(plain == str(plain_address(text)) for node in inventory.nodes for text in node.addresses):
        return None
    owners = [pod for pod in inventory.pods if plain in [str(plain_address(text)) for text in pod.addresses]]
    return owners[0] if len(owners) == 1 and not ip_address(plain).is_link_local else None


def find_port(server: End, text: str, protocol: int) -> int:
    """A port by number, or by the name that the server gives it.

    Raises:
        UnknownEnd: it is neither.
    """
    if text.isascii() and text.isdigit():
        if 1 <= int(text) <= MAX_PORT:
            return int(text)
        raise UnknownEnd(f"'{text}' is not a port: expected 1 to {MAX_PORT}")
    ports = server.pod.ports if server.pod is not None else ()
    for port in ports:
        if port.name == text and port.protocol == protocol:
            return port.port
    named = [port.name for port in ports if port.protocol == protocol]
    near = get_close_matches(text, named, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(named)}" if named else "it names none"
    raise UnknownEnd(f"{server.text} has no {protocol_name(protocol)} port named '{text}': {hint}")


def identity_of(rules: RuleSet, address: str) -> int:
    """Identity of a plain address as the data plane finds it: pods and nodes first, then the longest prefix; an IPv6
    link-local peer is nobody."""
    ip = ip_address(address)
    if ip.version == 6 and ip.is_link_local:
        return int(Reserved.NONE)
    if address in rules.addresses:
        return rules.addresses[address][0]
    best = -1
    found = int(Reserved.NONE)
    for text, number in rules.prefixes.items():
        network = ip_network(text)
        if network.version == ip.version and network.prefixlen > best and ip in network:
            best, found = network.prefixlen, number
    return found


def judge(
    engine: Engine,
    endpoint_id: int,
    direction: Direction,
    identity: int,
    question: Question,
    *,
    probes: bool = True,
) -> Judgement:
    """What happens at one side; by the engine, and for this node's own connections by the rule for its probes.

    At ingress HOST stands for a process of this node, which the kernel recognises and lets through to be probed unless
    a rule denies it by name. probes: the agent's setting `node_probes`.
    """
    connection = engine.connection(endpoint_id, direction, identity, question.port, question.protocol)
    if _out_of_reach(engine, endpoint_id, direction, identity, question, connection):
        return Judgement(False, DEFAULT_DENY, LINK_LOCAL)
    if probes and direction is Direction.INGRESS and identity in THIS_NODE and not connection.enforced.explicit:
        if connection.answer is not Answer.ALLOW or connection.would_deny:
            return Judgement(True, NODE_PROBE, "a process of this node opened it (node_probe)")
        return _connection(connection, question)
    if connection.answer is not Answer.PROXY:
        return _connection(connection, question)
    kind = engine.protocol_of(endpoint_id, direction, identity, question.port)
    binding = connection.enforced.answer is Answer.PROXY  # else policies in mode audit alone want requests judged
    if question.http is None and question.kafka is None:
        who = "" if binding else " by policies in mode audit"
        rule = connection.enforced.line.name if connection.enforced.line else ""
        kinds = "requests" if kind == "conflict" else f"{kind} requests"
        return Judgement(
            True, rule, f"the connection is accepted, {kinds} on it are judged{who}", connection.would_deny, binding
        )
    spoken = "http" if question.http is not None else "kafka"
    if kind not in (spoken, "conflict"):
        if not binding:
            return Judgement(True, PROTOCOL, f"{kind} is expected on this port, policies in mode audit alone ask", True)
        return Judgement(False, PROTOCOL, f"{kind} is expected on this port, and this is {spoken}")
    if question.http is not None:
        verdict = engine.decide(endpoint_id, direction, identity, question.port, question.http)
    elif question.kafka is not None:
        verdict = engine.decide_kafka(endpoint_id, direction, identity, question.port, question.kafka)
    else:
        raise AssertionError("one of the two was there")
    return Judgement(verdict.allow, verdict.rule, verdict.reason, verdict.audited, binding, verdict.edits)


def _out_of_reach(
    engine: Engine,
    endpoint_id: int,
    direction: Direction,
    identity: int,
    question: Question,
    connection: ConnectionVerdict,
) -> bool:
    """What the kernel refuses of a link-local peer whatever rules say: at egress all of TCP, at ingress what would have
    to be steered, as no leg can be dialled for it."""
    if identity != Reserved.NONE or question.protocol != TCP:
        return False
    rules = engine.ruleset.endpoints[endpoint_id].direction(direction)
    if rules.watched:
        return False
    return connection.answer is Answer.PROXY if direction is Direction.INGRESS else rules.enforced


def _connection(verdict: ConnectionVerdict, question: Question) -> Judgement:
    """A connection of which no request is judged."""
    allow = verdict.answer is not Answer.DENY
    outcome = verdict.audited if verdict.would_deny else verdict.enforced
    where = f"port {question.port}/{protocol_name(question.protocol)}"
    if outcome.line is not None:
        word = "denied" if outcome.answer is Answer.DENY else "allowed"
        return Judgement(allow, outcome.line.name, f"{word} by {outcome.line.name} (L4)", verdict.would_deny)
    if outcome.answer is Answer.DENY:
        return Judgement(allow, DEFAULT_DENY, f"no rule names this peer on {where}", verdict.would_deny)
    return Judgement(allow, DEFAULT_ALLOW, "nothing denies it, and no policy asks for default deny")


def explain(
    policies: PolicySet, inventory: Inventory, client: End, server: End, question: Question, *, probes: bool = True
) -> Explanation:
    """Judge a connection, and its request if there is one, at each end that is a pod. probes: see `judge`.

    Raises:
        UnknownEnd: no end is a pod.
        ValueError: the inventory contradicts itself (see `resolve`).
        AssertionError: the rules one by one do not give what the engine gave: a bug, and no answer is given.
    """
    if client.pod is None and server.pod is None:
        raise UnknownEnd(f"neither '{client.text}' nor '{server.text}' is a pod: policies are enforced at pods")
    if client.pod is not None and server.address and ip_address(server.address).is_loopback:
        server = client
    if client.pod is not None and client.text == server.text:
        return Explanation(tuple(_to_itself(direction, client.text) for direction in reversed(Direction)))
    ids = {end.text: number for number, end in enumerate((client, server), 1) if end.pod is not None}
    pods = tuple(replace(pod, endpoint_id=ids.get(f"{pod.namespace}/{pod.name}")) for pod in inventory.pods)
    rules = resolve(policies, replace(inventory, pods=pods), 1)
    engine = Engine(rules)
    sides: list[Side] = []
    for own, peer, direction in ((client, server, Direction.EGRESS), (server, client, Direction.INGRESS)):
        if own.pod is not None:
            identity = _identity(rules, peer, ids, direction)
            connection = engine.connection(ids[own.text], direction, identity, question.port, question.protocol)
            from_node = direction is Direction.INGRESS and identity in THIS_NODE
            if from_node and not probes and connection.answer is Answer.PROXY:
                identity = int(Reserved.WORLD_IPV4)  # a worker sees the address alone, which proves no process
            side = explain_side(
                policies, inventory, engine, ids[own.text], direction, identity, question, peer.text, probes=probes
            )
            sides.append(side)
            if question.http is not None and side.judgement.edits:
                question = replace(question, http=edited(question.http, side.judgement.edits))
    return Explanation(tuple(sides))


def explain_kafka(
    policies: PolicySet,
    inventory: Inventory,
    client: End,
    server: End,
    port: int,
    steps: Iterable[Sequence[KafkaRequest]],
    *,
    probes: bool = True,
) -> list[tuple[str, Explanation]]:
    """`explain` for each step of a Kafka request, at each side for the question of the step that is allowed there, or
    else for its first. The request is allowed where all steps are."""
    found: list[tuple[str, Explanation]] = []
    for step in steps:
        answers = [
            explain(policies, inventory, client, server, Question(TCP, port, kafka=asked), probes=probes)
            for asked in step
        ]
        best = [
            next((i for i, each in enumerate(answers) if each.sides[side].judgement.allow), 0)
            for side in range(len(answers[0].sides))
        ]
        explanation = Explanation(tuple(answers[i].sides[side] for side, i in enumerate(best)))
        asked = step if not explanation.allow else [step[i] for i in dict.fromkeys(best)]
        found.append((" or ".join(map(asked_text, asked)), explanation))
    return found


def _to_itself(direction: Direction, pod: str) -> Side:
    """Neither the kernel nor a proxy comes between a pod and its own addresses."""
    return Side(direction, pod, pod, False, Judgement(True, DEFAULT_ALLOW, TO_ITSELF), None, ())


def edited(request: HttpRequest, edits: Iterable[HeaderEdit]) -> HttpRequest:
    """The request as it leaves a side that changes its headers (the proxy does the same to its fields)."""
    headers = list(request.headers)
    for edit in edits:
        name, value = edit.name.encode("latin-1"), edit.value.encode()
        place = next((i for i, (have, _) in enumerate(headers) if have == name), len(headers))
        if edit.action is Mismatch.ADD:
            headers.append((name, value))
            continue
        headers = [pair for pair in headers if pair[0] != name]
        if edit.action is Mismatch.REPLACE:
            headers.insert(place, (name, value))
    return HttpRequest(request.method, request.path, request.host, tuple(headers))


def _identity(rules: RuleSet, end: End, ids: dict[str, int], direction: Direction) -> int:
    if end.identity is not None:
        return end.identity
    if end.pod is None:
        number = identity_of(rules, end.address)
        if direction is Direction.INGRESS and number in THIS_NODE:  # an address alone proves no process of the node
            return int(Reserved.WORLD_IPV6 if ":" in end.address else Reserved.WORLD_IPV4)
        return number
    if end.pod.addresses:
        return identity_of(rules, str(ip_address(end.pod.addresses[0])))
    return rules.endpoints[ids[end.text]].identity


def explain_side(
    policies: PolicySet,
    inventory: Inventory,
    engine: Engine,
    endpoint_id: int,
    direction: Direction,
    identity: int,
    question: Question,
    peer: str,
    *,
    probes: bool = True,
) -> Side:
    """One side with every rule that was considered; raises as `explain`."""
    endpoint = engine.ruleset.endpoints[endpoint_id]
    rules = endpoint.direction(direction)
    judgement = judge(engine, endpoint_id, direction, identity, question, probes=probes)
    considered = tuple(_considered(policies, inventory, endpoint, direction, identity, question, peer))
    _check(judgement, rules, considered, question)
    return Side(
        direction,
        f"{endpoint.namespace}/{endpoint.name}",
        peer,
        rules.enforced,
        judgement,
        policies.places.get(judgement.rule),
        considered,
        tuple((title(ref), policies.places.get(title(ref))) for ref in rules.policies),
    )


def _considered(
    policies: PolicySet,
    inventory: Inventory,
    endpoint: EndpointRules,
    direction: Direction,
    identity: int,
    question: Question,
    peer: str,
) -> Iterator[Considered]:
    rules = endpoint.direction(direction)
    by_name: dict[str, list[Line]] = {}
    for line in rules.lines:
        by_name.setdefault(line.name, []).append(line)
    for section in policies.sections:
        if section.policy not in rules.policies or not selects(section, endpoint, inventory):
            continue
        grants = section.ingress if direction is Direction.INGRESS else section.egress
        if grants is None:
            continue
        names: dict[str, list[Grant]] = {}
        for grant in grants:
            names.setdefault(grant.name, []).append(grant)
        if not names:
            why = f"selects the pod and has no rule that allows anything for {direction.name.lower()}"
            yield Considered(
                title(section.policy),
                policies.places.get(title(section.policy)),
                False,
                why,
                audit=section.options.audit,
            )
        for name, same in names.items():
            yield from _of_grant(policies, name, same, by_name.get(name, []), section, identity, question, peer)


def selects(section: Section, endpoint: EndpointRules, inventory: Inventory) -> bool:
    """Whether the section is about this endpoint."""
    return section.selector.matches(
        endpoint.namespace, endpoint.labels, inventory.namespaces.get(endpoint.namespace, {})
    )


def _of_grant(
    policies: PolicySet,
    name: str,
    grants: Sequence[Grant],
    lines: Sequence[Line],
    section: Section,
    identity: int,
    question: Question,
    peer: str,
) -> Iterator[Considered]:
    grant = grants[0]
    place, audit = policies.places.get(name), section.options.audit
    fits = [line for line in lines if line.names(identity) and line.covers(question.protocol, question.port)]
    wrong = "" if fits else _why_not(grants, lines, identity, question, peer)
    l7 = "http" if grant.http is not None else "kafka" if grant.kafka is not None else ""
    rules: list[HttpRule | KafkaRule] = [*(grant.http or ()), *(grant.kafka or ())]
    if wrong:
        why = wrong
    elif grant.deny:
        why = "denies this peer on this port"
    elif not l7:
        why = "allows this peer on this port, every request included"
    else:
        why = "names this peer and port; requests are judged by its rules"
    yield Considered(name, place, not wrong, why, grant.deny, audit, l7, any(rule.deny for rule in rules))
    for rule in rules:
        where = policies.places.get(rule.name, place)
        if wrong:
            why = "its entry is about another peer or port"
        else:
            differs = part_that_differs(rule, question)
            if differs is None:
                yield Considered(rule.name, where, True, _does(rule), rule.deny, audit, l7, rule_of_l7=True)
                continue
            why = differs
        yield Considered(rule.name, where, False, why, rule.deny, audit, l7, rule_of_l7=True)


def _does(rule: HttpRule | KafkaRule) -> str:
    return "matches, and denies" if rule.deny else "matches, and allows"


def _why_not(grants: Sequence[Grant], lines: Sequence[Line], identity: int, question: Question, peer: str) -> str:
    ports = ", ".join(dict.fromkeys(port_text(grant.port) for grant in grants))
    if not lines:
        return f"port: {ports} is no port of anybody here"
    if not any(line.names(identity) for line in lines):
        peers = grants[0].peers
        if not peers:
            return "peer: its list of peers is empty, which matches nobody"
        return f"peer: {peer} is not {' or '.join(map(peer_text, peers))}"
    asked = f"{question.port}/{protocol_name(question.protocol)}"
    if not any(line.covers(question.protocol, question.port) for line in lines):
        return f"port: {asked} is not {ports}"
    return f"port: {asked} is not {ports} of this peer"


def part_that_differs(rule: HttpRule | KafkaRule, question: Question) -> str | None:
    """Why the rule does not match the request; None when it matches."""
    if isinstance(rule, HttpRule):
        if question.http is None:
            return "http: no request was asked about" if question.kafka is None else "http: the request is kafka"
        return _http_difference(rule, question.http)
    if question.kafka is None:
        return "kafka: no request was asked about" if question.http is None else "kafka: the request is http"
    return _kafka_difference(rule, question.kafka)


def _http_difference(rule: HttpRule, request: HttpRequest) -> str | None:
    alone = HttpRule(rule.name, deny=rule.deny)
    if rule.method is not None and not matches(replace(alone, method=rule.method), request):
        return f"method: {request.method} is not {rule.method}"
    if rule.path is not None and not matches(replace(alone, path=rule.path, path_kind=rule.path_kind), request):
        path, mark, _ = request.path.partition("?")
        kind = "" if rule.path_kind is PathKind.REGEX else f" ({rule.path_kind})"
        hint = ""
        if mark and rule.path_kind is PathKind.REGEX and matches(replace(alone, path=rule.path), _at(request, path)):
            hint = ": a path pattern sees the query too"
        return f"path: {request.path} is not {rule.path}{kind}{hint}"
    if rule.host is not None and not matches(replace(alone, host=rule.host), request):
        return (
            f"host: {request.host} is not {rule.host}" if request.host else f"host: none given, {rule.host} is wanted"
        )
    for query in rule.query:
        if not matches(replace(alone, query=(query,)), request):
            return (
                f"query: key {query.key} is missing" if query.value is None else f"query: {query.key} is not as wanted"
            )
    for header in rule.headers:
        if header.mismatch is Mismatch.REFUSE and not matches(replace(alone, headers=(header,)), request):
            there = any(name.decode("latin-1") == header.name for name, _ in request.headers)
            return f"header: {header.name} is {'not as wanted' if there else 'missing'}"
    return None if matches(rule, request) else "the request cannot be read as this rule wants it"


def _at(request: HttpRequest, path: str) -> HttpRequest:
    return HttpRequest(request.method, path, request.host, request.headers)


def _kafka_difference(rule: KafkaRule, request: KafkaRequest) -> str | None:
    if request.operation is Operation.CLUSTER_ACTION and not rule.deny:
        return "ClusterAction is for brokers among themselves: no rule allows it"
    alone = KafkaRule(rule.name, deny=rule.deny)
    if rule.api_key is not None and not matches(replace(alone, api_key=rule.api_key), request):
        return f"api: {_api(request.api_key)} is not {_api(rule.api_key)}"
    if rule.api_version is not None and not matches(replace(alone, api_version=rule.api_version), request):
        return f"version: {request.api_version} is not {rule.api_version}"
    if rule.client_id is not None and not matches(replace(alone, client_id=rule.client_id), request):
        return f"client: {request.client_id} is not {rule.client_id}"
    if matches(rule, request):
        return None
    about = [acl for acl in acls(rule) if acl.resource is request.resource]
    what = RESOURCE_NAMES[request.resource]
    if not any(acl.operations is None or request.operation in acl.operations for acl in about):
        who = f"role {rule.role}" if rule.role else "what it names"
        return f"{what}: {request.operation} is not in {who}"
    acl = about[0]
    name = f"any {what}" if request.name is None else request.name
    how = {NameKind.EXACT: "is not", NameKind.PREFIX: "does not begin with", NameKind.GLOB: "is not like"}[acl.kind]
    return f"{what}: {name} {how} {acl.name}"


RESOURCE_NAMES = {
    Resource.TOPIC: "topic",
    Resource.GROUP: "group",
    Resource.CLUSTER: "cluster",
    Resource.TRANSACTIONAL_ID: "transactional id",
    Resource.DELEGATION_TOKEN: "delegation token",
    Resource.USER: "user",
}


def _api(key: int) -> str:
    return API_NAMES.get(key, str(key))


def asked_text(request: KafkaRequest) -> str:
    """`Write topic orders`, `Read any group`, `Create cluster`; "nothing" for an API that asks for nothing."""
    if request.operation is Operation.NOTHING:
        return "nothing"
    what = RESOURCE_NAMES[request.resource]
    if request.resource is Resource.TOPIC and request.name == EVERY_TOPIC:
        return f"{request.operation} every topic"
    if request.name is None:
        return f"{request.operation} any {what}"
    return f"{request.operation} {what}{f' {request.name}' if request.name else ''}"


def matches(rule: HttpRule | KafkaRule, request: HttpRequest | KafkaRequest) -> bool:
    """Whether the engine, with this one rule and nothing else, finds that it matches."""
    http = (rule,) if isinstance(rule, HttpRule) else None
    kafka = (rule,) if isinstance(rule, KafkaRule) else None
    line = Line(rule.name, PolicyRef("", "", ""), None, http=http, kafka=kafka)
    alone = DirectionRules(True, not rule.deny, not rule.deny, (line,))
    engine = Engine(RuleSet(1, {1: EndpointRules(1, "", "", {}, alone, alone)}))
    if isinstance(request, HttpRequest):
        verdict = engine.decide(1, Direction.INGRESS, 0, 80, request)
    else:
        verdict = engine.decide_kafka(1, Direction.INGRESS, 0, 80, request)
    return verdict.allow is not rule.deny


def _check(
    judgement: Judgement,
    rules: DirectionRules,
    considered: Sequence[Considered],
    question: Question,
) -> None:
    """The algebra once more, from the rules one by one."""
    if judgement.rule in (NODE_PROBE, PROTOCOL) or judgement.reason == LINK_LOCAL:
        return
    request = question.http is not None or question.kafka is not None
    if question.kafka is not None and question.kafka.name is None and any(one.l7_denies for one in considered):
        return  # for any resource of a kind a rule that allows and one that denies are one answer, not two
    mine = [one for one in considered if not one.audit]
    allow = not rules.enforced or _allowed(mine, rules.default_deny, request)
    audited = allow and rules.enforced and not _allowed(considered, rules.audit_default_deny, request)
    if (allow, audited) != (judgement.allow, judgement.audited):
        said = f"allow {allow}, audited {audited}"
        raise AssertionError(f"the rules one by one say {said}, the engine says {judgement}")


def _allowed(considered: Iterable[Considered], default_deny: bool, request: bool) -> bool:
    matched = [one for one in considered if one.matched]
    grants = [one for one in matched if not one.rule_of_l7]
    if any(one.deny for one in grants):
        return False
    if not request or not any(one.l7 for one in grants):
        return bool(grants) or not default_deny
    open_to_all = any(not one.l7 for one in grants)
    if open_to_all and not any(one.l7_denies for one in grants):
        return True
    if len({one.l7 for one in grants} - {""}) > 1:
        return False
    inside = [one for one in matched if one.rule_of_l7]
    if any(one.deny for one in inside):
        return False
    return bool(inside) or not default_deny or open_to_all
