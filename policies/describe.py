"""Parts of policies in few words, for people."""

from policies.policyset import CidrPeer, EntityPeer, Peer, PortSpec, ServicePeer
from policies.ruleset import ANY_PROTOCOL, MAX_PORT, TCP, UDP, PolicyRef
from policies.selector import NAMESPACE_LABEL, Operator, Requirement, Selector


def protocol_name(protocol: int) -> str:
    """TCP, UDP, ANY or the number."""
    return {TCP: "TCP", UDP: "UDP", ANY_PROTOCOL: "ANY"}.get(protocol, str(protocol))


def port_text(port: PortSpec) -> str:
    """`80/TCP`, `8000-8080/UDP`, `http/TCP`, `every port`."""
    if port.named is not None:
        return f"{port.named}/{protocol_name(port.protocol)}"
    if (port.first, port.last) == (0, MAX_PORT):
        return "every port" if port.protocol == ANY_PROTOCOL else f"every {protocol_name(port.protocol)} port"
    ports = str(port.first) if port.first == port.last else f"{port.first}-{port.last}"
    return f"{ports}/{protocol_name(port.protocol)}"


def peer_text(peer: Peer) -> str:
    """A peer in few words."""
    match peer:
        case Selector():
            return selector_text(peer)
        case EntityPeer():
            return f"entity {peer.entity}"
        case CidrPeer():
            return peer.cidr + (f" except {', '.join(peer.excepts)}" if peer.excepts else "")
        case ServicePeer():
            of = peer.name if peer.name is not None else selector_text(peer.selector) if peer.selector else "?"
            return f"service {peer.namespace or '*'}/{of}"


def selector_text(selector: Selector) -> str:
    """`app=web, tier in (a, b) in default`."""
    tests = [_requirement(test) for test in selector.requirements if test.key != NAMESPACE_LABEL]
    spaces = [test for test in selector.requirements if test.key == NAMESPACE_LABEL]
    where = "".join(
        f" in {test.values[0]}" if test.operator is Operator.IN and len(test.values) == 1 else f", {_requirement(test)}"
        for test in spaces
    )
    return f"{', '.join(tests) or 'any pod'}{where}"


def _requirement(test: Requirement) -> str:
    match test.operator:
        case Operator.IN if len(test.values) == 1:
            return f"{test.key}={test.values[0]}"
        case Operator.IN:
            return f"{test.key} in ({', '.join(test.values)})"
        case Operator.NOT_IN:
            return f"{test.key} not in ({', '.join(test.values)})"
        case Operator.EXISTS:
            return test.key
        case Operator.DOES_NOT_EXIST:
            return f"!{test.key}"


def title(policy: PolicyRef) -> str:
    """How the names of a document's rules begin."""
    bare = f"{policy.namespace}/{policy.name}" if policy.namespace else policy.name
    return f"{policy.kind} {bare}" if policy.kind in ("NetworkPolicy", "TulleNetworkPolicy") else bare
