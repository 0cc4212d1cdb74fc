"""Truth tables from the published documentation of Cilium and Kubernetes.

Each case is an example of those pages, with names of our own, and the outcomes that the page states or that follow from
its words: who gets through, and which rule says so.

Sources: docs.cilium.io, Security, Network Policy (Layer 3, Layer 4, Layer 7, Deny, Kubernetes); kubernetes.io, Concepts,
Network Policies; ahmetb/kubernetes-network-policy-recipes.
"""

from dataclasses import dataclass, field

import pytest

from policies.engine import DEFAULT_ALLOW, DEFAULT_DENY, HttpRequest
from policies.errors import PolicyError
from policies.inventory import Inventory, NamedPort, NodeHost, Pod, Service
from policies.ruleset import TCP, UDP, Direction
from tests.policies.world import EGRESS, ICMP, INGRESS, World, documents, identity_at

CILIUM = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p, namespace: default}\n"
GUARD = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: g}\n"
KUBERNETES = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: np, namespace: default}\n"

_PODS: dict[str, tuple[str, dict[str, str], tuple[NamedPort, ...]]] = {
    "backend": ("default", {"role": "backend"}, (NamedPort("metrics", 5000),)),
    "frontend": ("default", {"role": "frontend"}, ()),
    "db": ("default", {"role": "db"}, ()),
    "app1": ("default", {"id": "app1", "env": "prod"}, ()),
    "app2": ("default", {"id": "app2", "env": "dev"}, ()),
    "dns": ("kube-system", {"k8s-app": "kube-dns"}, ()),
    "shop": ("shop", {"role": "frontend", "app": "shop"}, ()),
    "monitor": ("monitoring", {"type": "monitoring"}, ()),
    "leia": ("alderaan", {"name": "rebel-base"}, ()),
}
_NODES = {"here": "192.168.0.1", "there": "192.168.0.2", "master": "192.168.0.3"}
CLUSTER = Inventory(
    tuple(
        Pod(namespace, name, labels, (f"10.1.0.{i}",), i, ports)
        for i, (name, (namespace, labels, ports)) in enumerate(_PODS.items(), 1)
    ),
    tuple(NodeHost(name, (address,), local=name == "here") for name, address in _NODES.items()),
    {"shop": {"project": "shop"}, "monitoring": {"team": "operations"}, "alderaan": {"faction": "alliance"}},
    (Service("default", "ext", {"head": "none"}, None, ("93.184.216.34",)),),
    ("192.168.0.3",),
)
IDS = {name: i for i, name in enumerate(_PODS, 1)}


@dataclass(frozen=True)
class Case:
    """Documents, and what is stated of them: (from, to, "80" or "53/udp" or "icmp", request) to the rule that says so.

    A request is "METHOD path", with "X-Name=value" behind it for a header, or "" for the connection alone.
    """

    source: str
    text: str
    stated: dict[tuple[str, str, str, str], str] = field(hash=False)


def yaml(head: str, spec: str) -> str:
    return head + "spec:\n" + "\n".join("  " + line for line in spec.strip("\n").splitlines()) + "\n"


L3 = "endpointSelector: {matchLabels: {role: backend}}\ningress:\n- fromEndpoints: [{matchLabels: {role: frontend}}]"
DEFAULT, ALLOWED = DEFAULT_DENY, DEFAULT_ALLOW
CASES = [
    Case(
        "Cilium, Layer 3: simple ingress allow",
        yaml(CILIUM, L3),
        {
            ("frontend", "backend", "80", ""): "default/p ingress[0]",
            ("frontend", "backend", "53/udp", ""): "default/p ingress[0]",
            ("frontend", "backend", "icmp", ""): "default/p ingress[0]",
            ("db", "backend", "80", ""): DEFAULT,
            ("shop", "backend", "80", ""): DEFAULT,
            ("1.1.1.1", "backend", "80", ""): DEFAULT,
            ("db", "frontend", "80", ""): ALLOWED,
        },
    ),
    Case(
        "Cilium, Layer 3: ingress allow all endpoints",
        yaml(CILIUM, "endpointSelector: {matchLabels: {role: backend}}\ningress:\n- fromEndpoints:\n  - {}"),
        {
            ("db", "backend", "80", ""): "default/p ingress[0]",
            ("shop", "backend", "80", ""): DEFAULT,
            ("1.1.1.1", "backend", "80", ""): DEFAULT,
            ("there", "backend", "80", ""): DEFAULT,
        },
    ),
    Case(
        "Cilium, Layer 3: simple egress allow",
        yaml(
            CILIUM,
            "endpointSelector: {matchLabels: {role: frontend}}\negress:\n"
            "- toEndpoints: [{matchLabels: {role: backend}}]",
        ),
        {
            ("frontend", "backend", "80", ""): "default/p egress[0]",
            ("frontend", "db", "80", ""): DEFAULT,
            ("frontend", "1.1.1.1", "80", ""): DEFAULT,
            ("db", "frontend", "80", ""): ALLOWED,
        },
    ),
    Case(
        "Cilium, Layer 3: egress allow all endpoints",
        yaml(CILIUM, "endpointSelector: {matchLabels: {role: frontend}}\negress:\n- toEndpoints:\n  - {}"),
        {
            ("frontend", "db", "80", ""): "default/p egress[0]",
            ("frontend", "shop", "80", ""): DEFAULT,
            ("frontend", "1.1.1.1", "80", ""): DEFAULT,
        },
    ),
    Case(
        "Cilium, Layer 3: egress default deny",
        yaml(CILIUM, "endpointSelector: {matchLabels: {role: db}}\negress:\n- {}"),
        {
            ("db", "backend", "80", ""): DEFAULT,
            ("db", "dns", "53/udp", ""): DEFAULT,
            ("db", "1.1.1.1", "icmp", ""): DEFAULT,
            ("backend", "db", "80", ""): ALLOWED,
        },
    ),
    Case(
        "Cilium, Layer 3: services based, by name",
        yaml(
            CILIUM,
            "endpointSelector: {matchLabels: {id: app2}}\negress:\n"
            "- toServices: [{k8sService: {serviceName: ext, namespace: default}}]",
        ),
        {
            ("app2", "93.184.216.34", "443", ""): "default/p egress[0]",
            ("app2", "93.184.216.35", "443", ""): DEFAULT,
            ("app2", "backend", "443", ""): DEFAULT,
            ("app1", "93.184.216.35", "443", ""): ALLOWED,
        },
    ),
    Case(
        "Cilium, Layer 3: services based, by labels",
        yaml(
            CILIUM,
            "endpointSelector: {matchLabels: {id: app2}}\negress:\n"
            "- toServices: [{k8sServiceSelector: {selector: {matchLabels: {head: none}}}}]",
        ),
        {
            ("app2", "93.184.216.34", "443", ""): "default/p egress[0]",
            ("app2", "93.184.216.35", "443", ""): DEFAULT,
        },
    ),
    Case(
        "Cilium, Layer 3: access to the kube-apiserver",
        yaml(CILIUM, "endpointSelector: {matchLabels: {env: dev}}\negress:\n- toEntities: [kube-apiserver]"),
        {
            ("app2", "master", "6443", ""): "default/p egress[0]",
            ("app2", "there", "6443", ""): DEFAULT,
            ("app2", "1.1.1.1", "6443", ""): DEFAULT,
        },
    ),
    Case(
        "Cilium, Layer 3: access to the local host",
        yaml(CILIUM, "endpointSelector: {matchLabels: {env: dev}}\negress:\n- toEntities: [host]"),
        {
            ("app2", "here", "22", ""): "default/p egress[0]",
            ("app2", "there", "22", ""): DEFAULT,
            ("app2", "backend", "22", ""): DEFAULT,
        },
    ),
    Case(
        "Cilium, Layer 3: access from all nodes in the cluster",
        yaml(CILIUM, "endpointSelector: {matchLabels: {env: dev}}\ningress:\n- fromEntities: [host, remote-node]"),
        {
            ("here", "app2", "80", ""): "default/p ingress[0]",
            ("there", "app2", "80", ""): "default/p ingress[0]",
            ("master", "app2", "80", ""): "default/p ingress[0]",
            ("backend", "app2", "80", ""): DEFAULT,
            ("1.1.1.1", "app2", "80", ""): DEFAULT,
        },
    ),
    Case(
        "Cilium, Layer 3: access from outside the cluster",
        yaml(CILIUM, "endpointSelector: {matchLabels: {role: backend}}\ningress:\n- fromEntities: [world]"),
        {
            ("1.1.1.1", "backend", "80", ""): "default/p ingress[0]",
            ("2606:4700::1111", "backend", "80", ""): "default/p ingress[0]",
            ("frontend", "backend", "80", ""): DEFAULT,
            ("there", "backend", "80", ""): DEFAULT,
        },
    ),
    Case(
        "Cilium, Layer 3: IP/CIDR based, toCIDR and toCIDRSet with except",
        yaml(
            CILIUM,
            "endpointSelector: {matchLabels: {id: app1}}\negress:\n- toCIDR: [20.1.1.1/32]\n"
            "- toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.96.0.0/12]}]",
        ),
        {
            ("app1", "20.1.1.1", "80", ""): "default/p egress[0]",
            ("app1", "20.1.1.2", "80", ""): DEFAULT,
            ("app1", "10.5.0.1", "80", ""): "default/p egress[1]",
            ("app1", "10.96.0.1", "80", ""): DEFAULT,
            ("app1", "10.111.255.255", "80", ""): DEFAULT,
            ("app1", "10.112.0.0", "80", ""): "default/p egress[1]",
            # a pod inside 10.0.0.0/8 is judged by its labels
            ("app1", "backend", "80", ""): DEFAULT,
        },
    ),
    Case(
        "Cilium, Layer 4: limit ingress or egress ports",
        yaml(
            CILIUM,
            "endpointSelector: {matchLabels: {id: app1}}\negress:\n- toPorts: [{ports: [{port: '80', protocol: TCP}]}]",
        ),
        {
            ("app1", "backend", "80", ""): "default/p egress[0].toPorts[0]",
            ("app1", "1.1.1.1", "80", ""): "default/p egress[0].toPorts[0]",
            ("app1", "1.1.1.1", "443", ""): DEFAULT,
            ("app1", "1.1.1.1", "80/udp", ""): DEFAULT,
        },
    ),
    Case(
        "Cilium, Layer 4: a range of ports",
        yaml(
            CILIUM,
            "endpointSelector: {matchLabels: {id: app1}}\negress:\n"
            "- toPorts: [{ports: [{port: '80', endPort: 444, protocol: TCP}]}]",
        ),
        {
            ("app1", "1.1.1.1", "79", ""): DEFAULT,
            ("app1", "1.1.1.1", "80", ""): "default/p egress[0].toPorts[0]",
            ("app1", "1.1.1.1", "444", ""): "default/p egress[0].toPorts[0]",
            ("app1", "1.1.1.1", "445", ""): DEFAULT,
        },
    ),
    Case(
        "Cilium, Layer 4: labels-dependent ports",
        yaml(
            CILIUM,
            f"{L3}\n  toPorts: [{{ports: [{{port: '80', protocol: TCP}}]}}]",
        ),
        {
            ("frontend", "backend", "80", ""): "default/p ingress[0].toPorts[0]",
            ("frontend", "backend", "81", ""): DEFAULT,
            ("db", "backend", "80", ""): DEFAULT,
        },
    ),
    Case(
        "Cilium, Layer 4: CIDR-dependent ports",
        yaml(
            CILIUM,
            "endpointSelector: {matchLabels: {role: backend}}\negress:\n- toCIDR: [192.0.2.0/24]\n"
            "  toPorts: [{ports: [{port: '80', protocol: TCP}]}]",
        ),
        {
            ("backend", "192.0.2.9", "80", ""): "default/p egress[0].toPorts[0]",
            ("backend", "192.0.2.9", "443", ""): DEFAULT,
            ("backend", "192.0.3.9", "80", ""): DEFAULT,
        },
    ),
    Case(
        "Cilium, Layer 7: allow GET /public",
        yaml(
            CILIUM,
            f"{L3}\n  toPorts:\n  - ports: [{{port: '80', protocol: TCP}}]\n"
            "    rules: {http: [{method: GET, path: /public}]}",
        ),
        {
            ("frontend", "backend", "80", "GET /public"): "default/p ingress[0].toPorts[0].http[0]",
            ("frontend", "backend", "80", "GET /private"): DEFAULT,
            ("frontend", "backend", "80", "POST /public"): DEFAULT,
            ("frontend", "backend", "80", "GET /public?x=1"): DEFAULT,
            ("frontend", "backend", "81", ""): DEFAULT,
            ("db", "backend", "80", "GET /public"): DEFAULT,
        },
    ),
    Case(
        "Cilium, Layer 7: paths by pattern and a header",
        yaml(
            CILIUM,
            "endpointSelector: {matchLabels: {role: backend}}\ningress:\n- toPorts:\n"
            "  - ports: [{port: '80', protocol: TCP}]\n    rules:\n      http:\n"
            "      - {method: GET, path: '/path1$'}\n"
            "      - {method: PUT, path: '/path2$', headers: ['X-My-Header: true']}",
        ),
        {
            ("db", "backend", "80", "GET /path1"): "default/p ingress[0].toPorts[0].http[0]",
            ("1.1.1.1", "backend", "80", "GET /path1"): "default/p ingress[0].toPorts[0].http[0]",
            ("db", "backend", "80", "GET /path1/"): DEFAULT,
            ("db", "backend", "80", "GET /path2"): DEFAULT,
            ("db", "backend", "80", "PUT /path2"): DEFAULT,
            ("db", "backend", "80", "PUT /path2 X-My-Header=true"): "default/p ingress[0].toPorts[0].http[1]",
            ("db", "backend", "80", "PUT /path2 X-My-Header=false"): DEFAULT,
        },
    ),
    Case(
        "Cilium, Layer 7: an L4 rule beside one with L7 parts, which have no effect then",
        yaml(
            CILIUM,
            f"{L3}\n  toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{{path: /public}}]}}}}]\n"
            "- toPorts: [{ports: [{port: '80', protocol: TCP}]}]",
        ),
        {
            ("frontend", "backend", "80", "DELETE /x"): "default/p ingress[1].toPorts[0]",
            ("db", "backend", "80", "DELETE /x"): "default/p ingress[1].toPorts[0]",
        },
    ),
    Case(
        "Cilium, Deny: external lockdown",
        yaml(GUARD, "endpointSelector: {}\ningressDeny:\n- fromEntities: [world]\ningress:\n- fromEntities: [all]"),
        {
            ("1.1.1.1", "backend", "80", ""): "g ingressDeny[0]",
            ("frontend", "backend", "80", ""): "g ingress[0]",
            ("shop", "backend", "80", ""): "g ingress[0]",
            ("there", "backend", "80", ""): "g ingress[0]",
            ("1.1.1.1", "shop", "icmp", ""): "g ingressDeny[0]",
        },
    ),
    Case(
        "Cilium, Kubernetes: isolate namespaces",
        yaml(CILIUM, "endpointSelector: {}\ningress:\n- fromEndpoints:\n  - {}"),
        {
            ("frontend", "backend", "80", ""): "default/p ingress[0]",
            ("shop", "backend", "80", ""): DEFAULT,
            ("frontend", "shop", "80", ""): ALLOWED,
        },
    ),
    Case(
        "Cilium, Kubernetes: expose to another namespace",
        yaml(
            CILIUM,
            "endpointSelector: {matchLabels: {role: backend}}\ningress:\n- fromEndpoints:\n"
            "  - matchLabels: {'k8s:io.kubernetes.pod.namespace': shop, role: frontend}",
        ),
        {
            ("shop", "backend", "80", ""): "default/p ingress[0]",
            ("frontend", "backend", "80", ""): DEFAULT,
            ("monitor", "backend", "80", ""): DEFAULT,
        },
    ),
    Case(
        "Cilium, Kubernetes: all pods of a namespace to kube-dns",
        yaml(
            CILIUM,
            "endpointSelector: {}\negress:\n- toEndpoints:\n"
            "  - matchLabels: {'k8s:io.kubernetes.pod.namespace': kube-system, k8s-app: kube-dns}\n"
            "  toPorts: [{ports: [{port: '53', protocol: UDP}]}]",
        ),
        {
            ("frontend", "dns", "53/udp", ""): "default/p egress[0].toPorts[0]",
            ("frontend", "dns", "53", ""): DEFAULT,
            ("frontend", "backend", "53/udp", ""): DEFAULT,
            ("shop", "backend", "80", ""): ALLOWED,
        },
    ),
    Case(
        "Cilium, Kubernetes: by labels of namespaces",
        yaml(
            CILIUM,
            "endpointSelector: {matchLabels: {role: backend}}\ningress:\n- fromEndpoints:\n"
            "  - matchLabels: {io.cilium.k8s.namespace.labels.faction: alliance}",
        ),
        {
            ("leia", "backend", "80", ""): "default/p ingress[0]",
            ("shop", "backend", "80", ""): DEFAULT,
            ("frontend", "backend", "80", ""): DEFAULT,
        },
    ),
    Case(
        "Cilium, Kubernetes: cluster-wide, every pod to kube-dns",
        yaml(
            GUARD,
            "endpointSelector: {matchLabels: {'k8s:io.kubernetes.pod.namespace': kube-system, k8s-app: kube-dns}}\n"
            "ingress:\n- fromEndpoints:\n  - {}\n  toPorts: [{ports: [{port: '53', protocol: UDP}]}]",
        ),
        {
            ("frontend", "dns", "53/udp", ""): "g ingress[0].toPorts[0]",
            ("shop", "dns", "53/udp", ""): "g ingress[0].toPorts[0]",
            ("shop", "dns", "53", ""): DEFAULT,
            ("1.1.1.1", "dns", "53/udp", ""): DEFAULT,
            ("there", "dns", "53/udp", ""): DEFAULT,
        },
    ),
    Case(
        "Kubernetes, Network Policies: the NetworkPolicy resource",
        yaml(
            KUBERNETES,
            "podSelector: {matchLabels: {role: db}}\npolicyTypes: [Ingress, Egress]\ningress:\n- from:\n"
            "  - ipBlock: {cidr: 172.17.0.0/16, except: [172.17.1.0/24]}\n"
            "  - namespaceSelector: {matchLabels: {project: shop}}\n  - podSelector: {matchLabels: {role: frontend}}\n"
            "  ports: [{protocol: TCP, port: 6379}]\negress:\n- to: [{ipBlock: {cidr: 10.0.0.0/24}}]\n"
            "  ports: [{protocol: TCP, port: 5978}]",
        ),
        {
            ("172.17.0.1", "db", "6379", ""): "NetworkPolicy default/np ingress[0].ports[0]",
            ("172.17.1.1", "db", "6379", ""): DEFAULT,
            ("172.17.2.0", "db", "6379", ""): "NetworkPolicy default/np ingress[0].ports[0]",
            ("shop", "db", "6379", ""): "NetworkPolicy default/np ingress[0].ports[0]",
            ("frontend", "db", "6379", ""): "NetworkPolicy default/np ingress[0].ports[0]",
            ("frontend", "db", "6380", ""): DEFAULT,
            ("backend", "db", "6379", ""): DEFAULT,
            ("db", "10.0.0.9", "5978", ""): "NetworkPolicy default/np egress[0].ports[0]",
            ("db", "10.0.0.9", "5979", ""): DEFAULT,
            ("db", "10.0.1.9", "5978", ""): DEFAULT,
            ("db", "backend", "5978", ""): DEFAULT,
        },
    ),
    Case(
        "Kubernetes, Network Policies: both selectors in one element",
        yaml(
            KUBERNETES,
            "podSelector: {matchLabels: {role: db}}\ningress:\n- from:\n"
            "  - namespaceSelector: {matchLabels: {project: shop}}\n    podSelector: {matchLabels: {role: frontend}}",
        ),
        {
            ("shop", "db", "1", ""): "NetworkPolicy default/np ingress[0]",
            ("frontend", "db", "1", ""): DEFAULT,
            ("monitor", "db", "1", ""): DEFAULT,
        },
    ),
    Case(
        "Kubernetes, Network Policies: default deny all ingress and egress",
        yaml(KUBERNETES, "podSelector: {}\npolicyTypes: [Ingress, Egress]"),
        {
            ("frontend", "backend", "80", ""): DEFAULT,
            ("backend", "1.1.1.1", "80", ""): DEFAULT,
            ("shop", "backend", "80", ""): DEFAULT,
            ("shop", "monitor", "80", ""): ALLOWED,
        },
    ),
    Case(
        "Kubernetes, Network Policies: allow all ingress",
        yaml(KUBERNETES, "podSelector: {}\ningress:\n- {}\npolicyTypes: [Ingress]"),
        {
            ("shop", "backend", "80", ""): "NetworkPolicy default/np ingress[0]",
            ("1.1.1.1", "backend", "icmp", ""): "NetworkPolicy default/np ingress[0]",
        },
    ),
    Case(
        "Kubernetes, Network Policies: a range of ports",
        yaml(
            KUBERNETES,
            "podSelector: {matchLabels: {role: db}}\npolicyTypes: [Egress]\negress:\n"
            "- to: [{ipBlock: {cidr: 10.0.0.0/24}}]\n  ports: [{protocol: TCP, port: 32000, endPort: 32768}]",
        ),
        {
            ("db", "10.0.0.9", "31999", ""): DEFAULT,
            ("db", "10.0.0.9", "32000", ""): "NetworkPolicy default/np egress[0].ports[0]",
            ("db", "10.0.0.9", "32768", ""): "NetworkPolicy default/np egress[0].ports[0]",
            ("db", "10.0.0.9", "32769", ""): DEFAULT,
        },
    ),
    Case(
        "recipe 01: deny all traffic to an application",
        yaml(KUBERNETES, "podSelector: {matchLabels: {role: backend}}\ningress: []"),
        {("frontend", "backend", "80", ""): DEFAULT, ("backend", "frontend", "80", ""): ALLOWED},
    ),
    Case(
        "recipe 02a: allow all traffic to an application, beside a default denial",
        yaml(KUBERNETES, "podSelector: {matchLabels: {role: backend}}\ningress:\n- {}")
        + "---\n"
        + yaml(KUBERNETES.replace("np", "deny"), "podSelector: {}\ningress: []"),
        {
            ("shop", "backend", "80", ""): "NetworkPolicy default/np ingress[0]",
            ("shop", "frontend", "80", ""): DEFAULT,
        },
    ),
    Case(
        "recipe 04: deny traffic from other namespaces",
        yaml(KUBERNETES, "podSelector: {}\ningress:\n- from:\n  - podSelector: {}"),
        {
            ("frontend", "backend", "80", ""): "NetworkPolicy default/np ingress[0]",
            ("shop", "backend", "80", ""): DEFAULT,
        },
    ),
    Case(
        "recipe 05: allow traffic from all namespaces",
        yaml(KUBERNETES, "podSelector: {matchLabels: {role: backend}}\ningress:\n- from:\n  - namespaceSelector: {}"),
        {
            ("shop", "backend", "80", ""): "NetworkPolicy default/np ingress[0]",
            ("frontend", "backend", "80", ""): "NetworkPolicy default/np ingress[0]",
            ("1.1.1.1", "backend", "80", ""): DEFAULT,
        },
    ),
    Case(
        "recipe 07: some pods in another namespace",
        yaml(
            KUBERNETES,
            "podSelector: {matchLabels: {role: backend}}\ningress:\n- from:\n"
            "  - namespaceSelector: {matchLabels: {team: operations}}\n"
            "    podSelector: {matchLabels: {type: monitoring}}",
        ),
        {
            ("monitor", "backend", "80", ""): "NetworkPolicy default/np ingress[0]",
            ("shop", "backend", "80", ""): DEFAULT,
            ("frontend", "backend", "80", ""): DEFAULT,
        },
    ),
    Case(
        "recipe 08: allow external traffic",
        yaml(KUBERNETES, "podSelector: {matchLabels: {role: backend}}\ningress:\n- from: []"),
        {
            ("1.1.1.1", "backend", "80", ""): "NetworkPolicy default/np ingress[0]",
            ("shop", "backend", "80", ""): "NetworkPolicy default/np ingress[0]",
        },
    ),
    Case(
        "recipe 09: traffic only to a port, by number and by name",
        yaml(
            KUBERNETES,
            "podSelector: {matchLabels: {role: backend}}\ningress:\n- ports: [{port: metrics}]\n"
            "  from: [{podSelector: {matchLabels: {role: frontend}}}]",
        ),
        {
            ("frontend", "backend", "5000", ""): "NetworkPolicy default/np ingress[0].ports[0]",
            ("frontend", "backend", "8000", ""): DEFAULT,
            ("db", "backend", "5000", ""): DEFAULT,
        },
    ),
    Case(
        "recipe 10: several selectors",
        yaml(
            KUBERNETES,
            "podSelector: {matchLabels: {role: db}}\ningress:\n- from:\n"
            "  - podSelector: {matchLabels: {role: frontend}}\n  - podSelector: {matchLabels: {id: app1}}",
        ),
        {
            ("frontend", "db", "80", ""): "NetworkPolicy default/np ingress[0]",
            ("app1", "db", "80", ""): "NetworkPolicy default/np ingress[0]",
            ("app2", "db", "80", ""): DEFAULT,
        },
    ),
    Case(
        "recipe 11: deny egress from an application, but DNS",
        yaml(
            KUBERNETES,
            "podSelector: {matchLabels: {id: app1}}\npolicyTypes: [Egress]\negress:\n"
            "- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]",
        ),
        {
            ("app1", "dns", "53/udp", ""): "NetworkPolicy default/np egress[0].ports[0]",
            ("app1", "dns", "53", ""): "NetworkPolicy default/np egress[0].ports[1]",
            ("app1", "backend", "80", ""): DEFAULT,
        },
    ),
    Case(
        "recipe 14: deny external egress traffic",
        yaml(
            KUBERNETES,
            "podSelector: {matchLabels: {id: app1}}\npolicyTypes: [Egress]\negress:\n"
            "- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]\n- to: [{namespaceSelector: {}}]",
        ),
        {
            ("app1", "shop", "80", ""): "NetworkPolicy default/np egress[1]",
            ("app1", "1.1.1.1", "80", ""): DEFAULT,
            ("app1", "1.1.1.1", "53/udp", ""): "NetworkPolicy default/np egress[0].ports[0]",
        },
    ),
]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.source) for case in CASES])
def test_published_examples(case: Case) -> None:
    world = World(case.text, inventory=CLUSTER)

    def identity(name: str) -> int:
        if name in IDS:
            return identity_at(world.rules, f"10.1.0.{IDS[name]}")
        return identity_at(world.rules, _NODES.get(name, name))

    def judged(own: str, peer: str, direction: Direction, port: str, request: str) -> tuple[bool, str]:
        number, _, kind = port.partition("/")
        protocol = ICMP if port == "icmp" else UDP if kind else TCP
        at = 0 if port == "icmp" else int(number)
        if request:
            line, _, header = request.partition(" X-")
            name, _, value = f"X-{header}".partition("=")
            headers = [(name.lower().encode(), value.encode())] if header else []
            method, _, path = line.partition(" ")
            verdict = world.engine.decide(
                IDS[own], direction, identity(peer), at, HttpRequest(method, path, "x", headers)
            )
        else:
            verdict = world.engine.connection_verdict(IDS[own], direction, identity(peer), at, protocol)
        return verdict.allow, verdict.rule

    for (client, server, port, request), rule in case.stated.items():
        sides = []
        if client in IDS:
            sides.append(judged(client, server, EGRESS, port, request))
        if server in IDS:
            sides.append(judged(server, client, INGRESS, port, request))
        denied = [name for allow, name in sides if not allow]
        allowing = [name for _, name in sides if name != DEFAULT_ALLOW] or [DEFAULT_ALLOW]
        assert rule == (denied or allowing)[0], (client, server, port, request, sides)
        assert bool(denied) is (rule == DEFAULT_DENY or "Deny[" in rule)


# Cilium, Deny policies: what the table of that page says of every set of policies on the server.
DENY_TABLE = [
    # allowed: L7, 80, 81, client; denied: 80, client; then curl 81, curl 80, ping
    ("L7 80 81 L3", "", (True, True, True)),
    ("L7 80 81 L3", "80", (True, False, True)),
    ("L7 80 81 L3", "L3", (False, False, False)),
    ("L7 80 81 L3", "80 L3", (False, False, False)),
    ("", "80 L3", (False, False, False)),
]


@pytest.mark.parametrize(("allows", "denies", "stated"), DENY_TABLE)
def test_deny_policies_table(allows: str, denies: str, stated: tuple[bool, bool, bool]) -> None:
    rules = {
        "L7": "{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET, path: /}]}}]}",
        "80": "{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}",
        "81": "{toPorts: [{ports: [{port: '81', protocol: TCP}]}]}",
        "L3": "{fromEndpoints: [{matchLabels: {role: frontend}}]}",
    }
    spec = "endpointSelector: {matchLabels: {role: backend}}\n"
    if allows:
        spec += f"ingress: [{', '.join(rules[name] for name in allows.split())}]\n"
    if denies:
        spec += f"ingressDeny: [{', '.join(rules[name] for name in denies.split())}]\n"
    world = World(yaml(CILIUM, spec), inventory=CLUSTER)
    client = identity_at(world.rules, f"10.1.0.{IDS['frontend']}")
    server = IDS["backend"]
    curl_81 = world.engine.decide(server, INGRESS, client, 81, HttpRequest("GET", "/", "x"))
    curl_80 = world.engine.decide(server, INGRESS, client, 80, HttpRequest("GET", "/", "x"))
    ping = world.engine.connection_verdict(server, INGRESS, client, 0, ICMP)
    assert (curl_81.allow, curl_80.allow, ping.allow) == stated


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param("- toFQDNs: [{matchName: example.com}]", id="DNS based"),
        pytest.param("- toNodes: [{matchLabels: {a: b}}]", id="node based"),
        pytest.param("- icmps: [{fields: [{type: 8, family: IPv4}]}]", id="ICMP"),
        pytest.param("- toPorts: [{ports: [{port: '443'}], serverNames: [one.one]}]", id="TLS server names"),
        pytest.param("- toPorts: [{ports: [{port: '53'}], rules: {dns: [{matchPattern: '*'}]}}]", id="DNS rules"),
        pytest.param("- authentication: {mode: required}", id="mutual authentication"),
    ],
)
def test_what_those_pages_have_and_we_do_not_is_refused(rule: str) -> None:
    with pytest.raises(PolicyError) as caught:
        documents(yaml(CILIUM, f"endpointSelector: {{}}\negress:\n{rule}"))
    assert "not supported" in str(caught.value)
