"""Error codes of Kafka that we tell clients ourselves: https://kafka.apache.org/protocol#protocol_error_codes."""

from enum import IntEnum


class Code(IntEnum):
    """By the names that the protocol guide uses."""

    NONE = 0
    UNKNOWN_TOPIC_OR_PARTITION = 3
    INCONSISTENT_GROUP_PROTOCOL = 23
    TOPIC_AUTHORIZATION_FAILED = 29
    GROUP_AUTHORIZATION_FAILED = 30
    CLUSTER_AUTHORIZATION_FAILED = 31
    UNSUPPORTED_VERSION = 35
    INVALID_REQUEST = 42
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
    OPERATION_NOT_ATTEMPTED = 55
    DELEGATION_TOKEN_AUTHORIZATION_FAILED = 65
    FETCH_SESSION_ID_NOT_FOUND = 70
    UNKNOWN_TOPIC_ID = 100
    SHARE_SESSION_NOT_FOUND = 122


TEXTS = {
    Code.TOPIC_AUTHORIZATION_FAILED: "Topic authorization failed.",
    Code.GROUP_AUTHORIZATION_FAILED: "Group authorization failed.",
    Code.CLUSTER_AUTHORIZATION_FAILED: "Cluster authorization failed.",
    Code.UNSUPPORTED_VERSION: "The version of API is not supported.",
    Code.INVALID_REQUEST: "This most likely occurs because of a request being malformed by the client library or the "
    "message was sent to an incompatible broker. See the broker logs for more details.",
    Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "Transactional Id authorization failed.",
    Code.UNKNOWN_TOPIC_ID: "This server does not host this topic ID.",
}
"""What a broker writes beside a code, where an answer has room for text. Clients show it to people."""


def text(code: int) -> str | None:
    """Of a code; None where there is nothing to say beside it."""
    return TEXTS.get(Code(code)) if code in Code else None
