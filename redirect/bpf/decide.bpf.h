// The decisions, pure as far as a map look-up is: every hook calls these.
#pragma once

#include "maps.bpf.h"

#define L7_PREFIX_ALL 96     // endpoint, identity, direction, protocol, port
#define L7_PREFIX_NO_PORT 80 // all but the port; bits of the port in between

// A program that is specialised per pod: redirect/steer.py writes the endpoint's id over this number and loads a copy.
// One ld_imm64 that the compiler can neither fold nor share.
#define L7_ENDPOINT_MAGIC 0x50d1d0001ee7c0deULL

static __always_inline u32 l7_this_endpoint(void) {
    u64 id;
    asm volatile("%0 = 0x50d1d0001ee7c0de ll" : "=r"(id));
    return (u32)id;
}

struct l7_decision {
    u8 answer;
    u8 reason;
    u8 flags;
};

// Two look-ups, the first that hits is final: the compiler of policies merges general rules into specific entries. The
// trie itself prefers the longer prefix of a port: a range is a few entries, never one for each port.
static __always_inline struct l7_decision l7_decide(u32 endpoint, u8 direction, u32 identity, u8 protocol,
                                                    u16 port_be) {
    struct l7_decision out = {.answer = L7_DENY, .reason = L7_R_NO_RULE, .flags = 0};
    struct l7_verdict_key key = {};
    key.prefixlen = L7_PREFIX_ALL;
    key.endpoint = endpoint;
    key.identity = identity;
    key.direction = direction;
    key.protocol = protocol;
    key.port_be = port_be;
    struct l7_verdict *hit = l7_verdicts.lookup(&key);
    if (!hit && identity) {
        key.identity = 0;
        hit = l7_verdicts.lookup(&key);
    }
    if (!hit)
        return out;
    if (hit->answer == L7_ALLOW || hit->answer == L7_PROXY) {
        out.answer = hit->answer;
        out.reason = L7_R_NONE;
        out.flags = hit->flags;
    } else if (hit->flags & L7_V_EXPLICIT) { // also any answer that we do not know is a denial
        out.reason = L7_R_DENIED;
        out.flags = L7_V_EXPLICIT;
    }
    return out;
}

// The protocol as l7_verdicts has it.
static __always_inline u8 l7_protocol(u32 protocol) {
    if (protocol == IPPROTO_TCP || protocol == L7_PROTO_MPTCP) // which on the wire is TCP with options
        return IPPROTO_TCP;
    return protocol == IPPROTO_UDP ? IPPROTO_UDP : L7_PROTO_OTHER;
}

static __always_inline void l7_addr_set4(struct l7_addr *addr, u32 ip_be) {
    addr->word_be[0] = 0;
    addr->word_be[1] = 0;
    addr->word_be[2] = bpf_htonl(0xffff);
    addr->word_be[3] = ip_be;
}

static __always_inline bool l7_is4(const struct l7_addr *addr) {
    return addr->word_be[0] == 0 && addr->word_be[1] == 0 && addr->word_be[2] == bpf_htonl(0xffff);
}

static __always_inline bool l7_same(const struct l7_addr *a, const struct l7_addr *b) {
    return a->word_be[0] == b->word_be[0] && a->word_be[1] == b->word_be[1] && a->word_be[2] == b->word_be[2] &&
           a->word_be[3] == b->word_be[3];
}

// Where a pod's listeners of one direction and family begin in l7_listeners.
static __always_inline u32 l7_first_slot(u32 endpoint, u8 direction, bool six) {
    return ((endpoint * 2 + direction) * 2 + (six ? 1 : 0)) * L7_SLOTS;
}

// 127.0.0.0/8 and ::1.
static __always_inline bool l7_is_loopback(const struct l7_addr *addr) {
    if (l7_is4(addr))
        return (bpf_ntohl(addr->word_be[3]) >> 24) == 127;
    return addr->word_be[0] == 0 && addr->word_be[1] == 0 && addr->word_be[2] == 0 && addr->word_be[3] == bpf_htonl(1);
}

// 0.0.0.0 and ::, which connect(2) takes for loopback.
static __always_inline bool l7_is_unspecified(const struct l7_addr *addr) {
    return addr->word_be[3] == 0 &&
           (l7_is4(addr) || (addr->word_be[0] == 0 && addr->word_be[1] == 0 && addr->word_be[2] == 0));
}

// fe80::/10.
static __always_inline bool l7_is_link_local(const struct l7_addr *addr) {
    return (bpf_ntohl(addr->word_be[0]) >> 22) == 0x3fa;
}

// The pod's own addresses. An all-zero entry (no such address) is no one's own.
static __always_inline bool l7_is_own(const struct l7_endpoint *ep, const struct l7_addr *addr) {
    return !l7_is_unspecified(addr) && (l7_same(addr, &ep->addr4) || l7_same(addr, &ep->addr6));
}

// Whether any worker listens for the pod in that direction.
static __always_inline bool l7_has_listener(u32 endpoint, u8 direction, bool six) {
    u32 base = l7_first_slot(endpoint, direction, six);
    for (u32 i = 0; i < L7_SLOTS; i++) {
        u32 index = base + i;
        struct bpf_sock *sk = (struct bpf_sock *)l7_listeners.lookup(&index);
        if (sk) {
            bpf_sk_release(sk);
            return true;
        }
    }
    return false;
}

static __always_inline u32 l7_identity_of(const struct l7_addr *addr) {
    if (l7_is_link_local(addr))
        return 0; // anybody on the link can have it: it names no one
    struct l7_identity_key key = {};
    key.prefixlen = 128;
    key.addr = *addr;
    u32 *identity = l7_identities.lookup(&key);
    return identity ? *identity : 0;
}

// The identity that a destination is judged by, and the port. The place of the service map: a service's address and port
// are judged as the backend's; where there is no such service, as they are.
static __always_inline u32 l7_identity_to(const struct l7_addr *dst, u8 protocol, u16 *port_be) {
    struct l7_service_key key = {};
    key.addr = *dst;
    key.port_be = *port_be;
    key.protocol = protocol;
    struct l7_backend *backend = l7_services.lookup(&key);
    if (!backend)
        return l7_identity_of(dst);
    *port_be = backend->port_be;
    return l7_identity_of(&backend->addr);
}

#define L7_OPENED_NS 10000000000LL // 10 s: a SYN is sent again after 1, 3 and 7. Later the port may be somebody else's

static __always_inline bool l7_is_node(u32 identity) {
    return identity == L7_ID_HOST || identity == L7_ID_HOST_APISERVER;
}

// Whether a process of this node opened the connection, just now.
static __always_inline bool l7_opened_here(const struct l7_addr *src, const struct l7_addr *dst, u16 sport, u16 dport) {
    struct l7_tuple key = {};
    key.src = *src;
    key.dst = *dst;
    key.sport = sport;
    key.dport = dport;
    u64 *when = l7_opened.lookup(&key);
    return when && (s64)(bpf_ktime_get_ns() - *when) < L7_OPENED_NS;
}

static __always_inline u32 l7_world_of(const struct l7_addr *addr) {
    return l7_is4(addr) ? L7_ID_WORLD4 : L7_ID_WORLD6;
}

// The identity that a source is judged by. The address of this node proves nothing: what comes from elsewhere is
// masqueraded to it. It counts as the node's own only where a process of the node was seen to open the connection
// (l7_opened_here), which is known of TCP alone.
static __always_inline u32 l7_identity_from(const struct l7_addr *src) {
    u32 identity = l7_identity_of(src);
    return l7_is_node(identity) ? l7_world_of(src) : identity;
}
