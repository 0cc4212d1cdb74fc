// Structs, numbers and codes shared by every program and mirrored in redirect/layout.py, which turns its mirrors into
// _Static_asserts that are compiled with this text: a mirror that differs does not load.
// Fields ending in _be are in network byte order, all others in the machine's.
#pragma once

#include <uapi/linux/bpf.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>

#define L7_MAX_ENDPOINTS 512
#define L7_SLOTS 16
#define L7_LO_IFINDEX 1 // include/net/flow.h LOOPBACK_IFINDEX: lo is 1 in every netns
#define L7_SOCK_STREAM 1
#define L7_SOCK_DGRAM 2
#define L7_SOCK_RAW 3
#define L7_PROTO_OTHER 255 // in keys of l7_verdicts: every protocol but TCP and UDP
#define L7_PROTO_MPTCP 262 // uapi/linux/in.h names it IPPROTO_MPTCP since 5.6
#define L7_SOL_SOCKET 1    // asm-generic; our targets are x86-64 and arm64
#define L7_SO_MARK 36

// Identities that the programs know; the numbers are Cilium's where it has one.
#define L7_ID_HOST 1
#define L7_ID_WORLD4 9
#define L7_ID_WORLD6 10
#define L7_ID_HOST_APISERVER 11

// Flags of an endpoint.
#define L7_F_INGRESS 1 // ingress is enforced
#define L7_F_EGRESS 2  // egress is enforced
#define L7_F_STOPPED 4 // neither is any more, but the rules in the pod still stand: marks are still cleaned
// Policies in mode audit alone ask, and they refuse nothing: neither what cannot be steered nor what could slip past.
#define L7_F_WATCH_INGRESS 8
#define L7_F_WATCH_EGRESS 16

// Flags of a verdict.
#define L7_V_AUDIT 1     // it passes, and a policy in mode audit would have refused it
#define L7_V_FAIL_OPEN 2 // proxy; with no listener left it passes
#define L7_V_EXPLICIT 4  // deny: a deny rule says so, not the absence of an allow

enum l7_direction { L7_INGRESS = 0, L7_EGRESS = 1 };

enum l7_answer { L7_DENY = 0, L7_ALLOW = 1, L7_PROXY = 2 };

// Why something was refused: append-only, retired codes stay as `unused`. The same number indexes l7_counters.
enum l7_reason {
    L7_R_NONE = 0,          // not refused
    L7_R_NO_RULE = 1,       // the direction is enforced and no rule allows it
    L7_R_DENIED = 2,        // a deny rule hit
    L7_R_NO_LISTENER = 3,   // to be steered, but no worker listens: fail closed
    L7_R_BOUND_DEVICE = 4,  // connect on a socket bound to a device other than lo: would leave past the rules
    L7_R_LINK_LOCAL = 5,    // fe80::/10: the peer has no identity and routing by mark does not hold it
    L7_R_NO_ENDPOINT = 6,   // a program runs for an endpoint the maps do not know: fail closed
    L7_R_MARK_FAILED = 7,   // the mark could not be written: fail closed
    L7_R_FORGED_MARK = 8,   // a SYN came to lo by mark although the pod's egress is not steered
    L7_R_ASSIGN_FAILED = 9, // bpf_sk_assign refused the listener: fail closed
    L7_R_MARK_CHANGE = 10,  // SO_MARK set by the app: would undo the mark of a connect that has begun
    L7_R_SUPPRESSED = 11,   // counter only: refusals that got no record of their own
    L7_R_EVENT_LOST = 12,   // counter only: the ring was full
    L7_R_STEERED = 13,      // counter only: handed to a listener
    // What no connect hook had seen leaves the pod: a first segment (raw or packet socket, forged mark), or a later one
    // that no TCP socket sent, into a connection of ours or as a fragment.
    L7_R_RAW_PACKET = 14,
    L7_R_BYPASS = 15,      // counter only: an option that would take a packet socket past the gate
    L7_R_BIND_FAILED = 16, // counter only: the app's end of our leg could not be bound to lo
    // Three that passed, and were reported all the same.
    L7_R_WOULD_DENY = 17, // a policy in mode audit would have refused it
    L7_R_FAIL_OPEN = 18,  // to be steered, no worker listens, and the policy says that it passes then
    L7_R_NODE_PROBE = 19, // a process of this node opened it; the rules alone would not have let it through
    L7_R_NOT_STEERED = 20, // to be steered, but no TCP: there is no proxy for it
    L7_R_UNREADABLE = 21,  // a header that cannot be read, or that takes the packet to another destination than it shows
    L7_R_FORGED_SOURCE = 22, // a datagram from outside that bears the pod's own address
    L7_R_MAX = 32,         // room to grow without a new map layout
};

// One address, IPv4 as ::ffff:a.b.c.d (RFC 4291 2.5.5.2): one key form, one trie, no family field to mistake.
struct l7_addr {
    union {
        u8 byte[16];
        u32 word_be[4];
    };
};

// l7_endpoints: what is enforced for a local pod. An address that the pod lacks is all zero.
struct l7_endpoint {
    u64 cookie; // of its netns
    u32 id;
    u32 flags;
    struct l7_addr addr4;
    struct l7_addr addr6;
};

// l7_verdicts. The prefix covers all before the port, and 0 to 16 leading bits of the port: 80 to 96 bits.
struct l7_verdict_key {
    u32 prefixlen;
    u32 endpoint;
    u32 identity; // 0: any peer
    u8 direction;
    u8 protocol;
    u16 port_be;
};

struct l7_verdict {
    u8 answer;
    u8 flags; // L7_V_*
    u8 pad[2];
};

// l7_identities.
struct l7_identity_key {
    u32 prefixlen;
    struct l7_addr addr;
};

// l7_events, as the reader gets them.
struct l7_event {
    u64 time_ns; // CLOCK_MONOTONIC
    u64 suppressed;
    u32 endpoint;
    u32 identity; // the peer's
    struct l7_addr src;
    struct l7_addr dst;
    u16 sport; // machine byte order; 0: a connect that had no port yet
    u16 dport;
    u16 protocol;
    u8 direction;
    u8 reason;
};

// l7_seen: one 4-tuple that was refused lately.
struct l7_seen_key {
    struct l7_addr src;
    struct l7_addr dst;
    u16 sport;
    u16 dport;
    u32 kind; // protocol << 16 | 1 << 15 if it passed | endpoint * 2 + direction
};

struct l7_seen {
    u64 since_ns;
    u64 suppressed;
    u32 records;
    u32 pad;
};

// l7_nodes, one entry: the node itself.
struct l7_node {
    u64 cookie; // of its netns; 0: not set, and no one is the node
    u32 probes; // not 0: what it opens passes, unless a deny rule says no
    u32 pad;
};

// l7_opened: a connection that a process of the node opened, and when (CLOCK_MONOTONIC).
struct l7_tuple {
    struct l7_addr src;
    struct l7_addr dst;
    u16 sport;
    u16 dport;
};

// l7_services: where the routing of services puts what a service's address and port stand for. Nobody fills it yet.
struct l7_service_key {
    struct l7_addr addr;
    u16 port_be;
    u8 protocol; // as in l7_verdicts
    u8 pad;
};

struct l7_backend {
    struct l7_addr addr;
    u16 port_be;
    u16 pad;
};

// l7_flows: datagrams that passed lately, by remote end and own port. Of a netns and not of an endpoint: the id of a pod
// that is gone is given to the next one, which must not inherit what that one opened.
struct l7_flow_key {
    struct l7_addr remote;
    u64 cookie;
    u16 remote_port_be;
    u16 local_port_be;
    u32 protocol;
};

struct l7_flow {
    u64 egress_ns; // the last one that the rules of egress let through; 0: none
    u64 ingress_ns;
};
