"""Texts of documents, for tests that read them and judge nothing."""

from policies.compile import compile_policies
from policies.load import load_text
from policies.policyset import PolicySet, Section

HEAD = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n"
CLUSTER = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\n"
KUBERNETES = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
OURS = "apiVersion: tulle.dev/v1\nkind: TulleNetworkPolicy\n"


def policy(spec: str, name: str = "p", namespace: str = "default", part: str = "spec", head: str = HEAD) -> str:
    """A document around the text of a spec; of no namespace for CLUSTER."""
    body = "\n".join("  " + line for line in spec.strip("\n").splitlines())
    where = "" if head == CLUSTER else f", namespace: {namespace}"
    return f"{head}metadata: {{name: {name}{where}}}\n{part}:\n{body}\n"


def compiled(*texts: str) -> PolicySet:
    """What the documents of several texts say, each a file of its own."""
    return compile_policies([document for i, text in enumerate(texts) for document in load_text(text, f"{i}.yaml")])


def section(spec: str, head: str = HEAD) -> Section:
    """The one section of a document around a spec."""
    (found,) = compiled(policy(spec, head=head)).sections
    return found
