// sk_lookup: which socket gets a packet that no established one claimed. Attached to each pod's netns.
//
// The program cannot tell which netns it runs in, so it is specialised per pod: redirect/steer.py writes the endpoint's
// id over L7_ENDPOINT_MAGIC and loads a copy. It sees every such packet, stray segments too, and no TCP flags.
//
// Refused means SK_DROP, which the kernel answers with a reset (not to a steered IPv4 SYN: its destination is no
// address of the pod, and the kernel sends nothing from there; l7_connect refuses those before). If no listener is
// left, agent and workers dead, the answer is the same: fail closed.
//
// UDP that no connected socket takes is judged, too (flows.bpf.h), after l7_gate_in: two gates, either holds.
#include "flows.bpf.h"

static __always_inline u32 l7_hash(const struct l7_addr *src, u16 sport, u16 dport) {
    u32 h = src->word_be[0] ^ src->word_be[1] ^ src->word_be[2] ^ src->word_be[3] ^ (((u32)sport << 16) | dport);
    h ^= h >> 16; // murmur3's finaliser
    h *= 0x85ebca6b;
    h ^= h >> 13;
    h *= 0xc2b2ae35;
    h ^= h >> 16;
    return h;
}

// What a slot has to say for a connection: as good as drawn anew for each pair of both.
static __always_inline u32 l7_weight(u32 hash, u32 slot) {
    u32 w = hash + slot * 0x9e3779b9; // murmur3's finaliser again, over another value for each slot
    w ^= w >> 16;
    w *= 0x85ebca6b;
    w ^= w >> 13;
    w *= 0xc2b2ae35;
    w ^= w >> 16;
    return w;
}

// Hand the packet to a live listener: of all live ones the one of the greatest weight, so that each gets the same share
// whichever slots are live. (A walk over the slots from a start and by a step that both came from the hash gave the
// outer ones of four neighbours 16 % more than their share, and of some sets 38 %.) The same 4-tuple finds the same
// listener for as long as that one lives and no greater one comes, which SYN cookies need.
static __always_inline u8 l7_assign(struct bpf_sk_lookup *ctx, u32 endpoint, u8 direction, bool six, u32 hash) {
    u32 base = l7_first_slot(endpoint, direction, six);
    u32 greatest = 0, best = L7_SLOTS;
    for (u32 i = 0; i < L7_SLOTS; i++) {
        u32 index = base + i;
        struct bpf_sock *sk = (struct bpf_sock *)l7_listeners.lookup(&index);
        if (!sk)
            continue;
        bpf_sk_release(sk);
        u32 weight = l7_weight(hash, i);
        if (best == L7_SLOTS || weight > greatest) {
            greatest = weight;
            best = i;
        }
    }
    if (best == L7_SLOTS)
        return L7_R_NO_LISTENER;
    for (u32 i = 0; i < L7_SLOTS; i++) { // the first, unless it has gone this moment or does not take it
        u32 index = base + ((best + i) & (L7_SLOTS - 1));
        struct bpf_sock *sk = (struct bpf_sock *)l7_listeners.lookup(&index);
        if (!sk)
            continue;
        long error = bpf_sk_assign((void *)ctx, (void *)sk, 0);
        bpf_sk_release(sk);
        if (!error)
            return L7_R_NONE;
        l7_count(L7_R_ASSIGN_FAILED);
    }
    return L7_R_NO_LISTENER;
}

static __always_inline int l7_lookup(struct bpf_sk_lookup *ctx) {
    u8 protocol = ctx->protocol;
    if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
        return SK_PASS;
    u32 zero = 0;
    u32 *asking = l7_asking.lookup(&zero);
    if (asking && *asking)
        return SK_DROP;
    u32 id = l7_this_endpoint();
    struct l7_endpoint *ep = l7_endpoints.lookup(&id);
    if (!ep) {
        l7_count(L7_R_NO_ENDPOINT);
        return SK_DROP;
    }
    struct l7_event event = {};
    struct l7_addr *src = &event.src, *dst = &event.dst;
    bool six = ctx->family == 10; // AF_INET6
    // No branch around these reads: clang 14 would join two of them into one through a pointer chosen before, and the
    // verifier (seen: 6.18) refuses a "modified ctx ptr". For IPv4 the kernel reads zeros here.
    src->word_be[0] = ctx->remote_ip6[0];
    src->word_be[1] = ctx->remote_ip6[1];
    src->word_be[2] = ctx->remote_ip6[2];
    src->word_be[3] = ctx->remote_ip6[3];
    dst->word_be[0] = ctx->local_ip6[0];
    dst->word_be[1] = ctx->local_ip6[1];
    dst->word_be[2] = ctx->local_ip6[2];
    dst->word_be[3] = ctx->local_ip6[3];
    u32 src4 = ctx->remote_ip4, dst4 = ctx->local_ip4;
    if (!six) {
        l7_addr_set4(src, src4);
        l7_addr_set4(dst, dst4);
    }
    u16 sport = bpf_ntohs((u16)ctx->remote_port);
    u16 dport = ctx->local_port; // machine byte order already
    bool local_is_us = l7_is_loopback(dst) || l7_is_own(ep, dst);
    bool remote_is_us = l7_is_loopback(src) || l7_is_own(ep, src);
    struct l7_decision said;
    u8 direction;
    u32 identity;
    int fate = SK_DROP;

    if (protocol == IPPROTO_UDP) {
        if (ctx->ingress_ifindex == L7_LO_IFINDEX || l7_same(src, dst) || (local_is_us && remote_is_us) ||
            !(ep->flags & L7_F_INGRESS) || (ep->flags & L7_F_STOPPED))
            return SK_PASS; // the pod to itself; or the gate has remembered it
        direction = L7_INGRESS;
        said = l7_judge_in(ep, src, protocol, bpf_htons(sport), bpf_htons(dport), &identity);
        if (said.answer == L7_ALLOW)
            return SK_PASS; // recorded by the gate, if at all
        goto report;
    }
    if (ctx->ingress_ifindex == L7_LO_IFINDEX) {
        if (local_is_us)
            return SK_PASS; // the pod to itself, or our own upstream leg: the app's socket is the right one
        // A foreign address on lo: only a mark brings that. The steer mark, or a forged one.
        direction = L7_EGRESS;
        u16 port_be = bpf_htons(dport);
        identity = l7_identity_to(dst, IPPROTO_TCP, &port_be);
        said.answer = L7_DENY;
        said.reason = L7_R_FORGED_MARK;
        said.flags = 0;
        if ((ep->flags & L7_F_EGRESS) && !(ep->flags & L7_F_STOPPED)) {
            said = l7_decide(id, direction, identity, IPPROTO_TCP, port_be);
            // The worker judges again, so an answer that turned to allow since the connect may go there.
            if (said.answer == L7_ALLOW)
                said.answer = L7_PROXY;
            said.flags = 0; // never open: a packet for a foreign address has nowhere to pass to
        }
    } else {
        // By port for every local address: keyed on the pod's address alone, [fe80::...]:80 from the bridge reached the
        // app (seen).
        if (l7_same(src, dst) || (local_is_us && remote_is_us))
            return SK_PASS; // the pod to itself: shows eth0, where its address lives, as the ingress interface
        direction = L7_EGRESS;
        identity = 0;
        said.answer = L7_DENY;
        said.reason = L7_R_FORGED_MARK;
        said.flags = 0;
        // Our own address to a foreign one: the SYN of a socket that was bound to eth0 after a deferred connect,
        // brought back by redirect/plumbing.py; or a spoofed packet from outside, which IPv6 does not filter.
        if (remote_is_us)
            goto report;
        if (!(ep->flags & L7_F_INGRESS) || (ep->flags & L7_F_STOPPED))
            return SK_PASS;
        direction = L7_INGRESS;
        identity = l7_identity_of(src);
        bool opened = false;
        if (l7_is_node(identity)) {
            opened = l7_opened_here(src, dst, sport, dport);
            if (!opened)
                identity = l7_world_of(src);
        }
        said = l7_decide(id, direction, identity, IPPROTO_TCP, bpf_htons(dport));
        bool clean = said.answer == L7_ALLOW && !(said.flags & L7_V_AUDIT);
        u32 zero = 0;
        struct l7_node *node = l7_nodes.lookup(&zero);
        if (opened && node && node->probes && !clean && !(said.flags & L7_V_EXPLICIT)) {
            // A probe, most likely. Past the proxy, too: a worker knows nothing of who opened it.
            said.answer = L7_ALLOW;
            said.reason = L7_R_NODE_PROBE;
            fate = SK_PASS;
        } else if (said.answer == L7_ALLOW) {
            if (!(said.flags & L7_V_AUDIT))
                return SK_PASS;
            said.reason = L7_R_WOULD_DENY;
            fate = SK_PASS;
        } else if (said.answer == L7_PROXY && (l7_is_link_local(src) || l7_is_link_local(dst))) {
            // No leg can be dialled for it: a link-local address needs its device, and the leg is bound to lo.
            bool watched = ep->flags & L7_F_WATCH_INGRESS;
            said.answer = watched ? L7_ALLOW : L7_DENY;
            said.reason = watched ? L7_R_FAIL_OPEN : L7_R_LINK_LOCAL;
            fate = watched ? SK_PASS : SK_DROP;
        }
    }
    if (said.answer == L7_PROXY) {
        // Without a live listener: dropped, fail closed, unless the policy says open.
        said.reason = l7_assign(ctx, id, direction, six, l7_hash(src, sport, dport));
        if (said.reason == L7_R_NONE) {
            l7_count(L7_R_STEERED);
            return SK_PASS;
        }
        if (said.flags & L7_V_FAIL_OPEN) {
            said.reason = L7_R_FAIL_OPEN;
            fate = SK_PASS;
        }
    }
report:
    event.endpoint = id;
    event.identity = identity;
    event.sport = sport;
    event.dport = dport;
    event.protocol = protocol;
    event.direction = direction;
    event.reason = said.reason;
    l7_report(&event, L7_RECORDS_INGRESS);
    return fate;
}

int l7_sk_lookup(struct bpf_sk_lookup *ctx) {
    return l7_lookup(ctx);
}
