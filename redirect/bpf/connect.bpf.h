// What both connect hooks do once the destination is in one form.
//
// The hooks run before the socket chooses a source and a route. For a pod of ours every connect *writes* the mark: the
// steer mark for proxy, 0 for all else. A mark that the app forged (CAP_NET_RAW, which containers have by default, is
// enough) or that an earlier connect left would send this one elsewhere: seen. So a pod whose egress or ingress is
// enforced cannot use SO_MARK on its own TCP connections.
//
// Refused means EPERM. If steering itself fails, the SYN meets a deny: with no rule for the mark in the pod the connect
// is refused by l7_sk_lookup or by the `unreachable` rule (redirect/plumbing.py).
#pragma once

#include "report.bpf.h"

#define L7_CONNECT_REFUSE 0
#define L7_CONNECT_PASS 1

static __always_inline bool l7_write_mark(struct bpf_sock_addr *ctx, u32 mark) {
    return bpf_setsockopt(ctx, L7_SOL_SOCKET, L7_SO_MARK, &mark, sizeof(mark)) == 0;
}

static __always_inline int l7_refuse_connect(struct bpf_sock_addr *ctx, const struct l7_endpoint *ep,
                                             const struct l7_addr *dst, u32 identity, u16 protocol, u8 reason) {
    struct l7_event event = {};
    event.endpoint = ep->id;
    event.identity = identity;
    event.src = l7_is4(dst) ? ep->addr4 : ep->addr6;
    event.dst = *dst;
    if (ctx->sk)
        event.sport = ctx->sk->src_port; // machine byte order; 0 unless the app bound one
    event.dport = bpf_ntohs((u16)ctx->user_port);
    event.protocol = protocol;
    event.direction = L7_EGRESS;
    event.reason = reason;
    l7_report(&event, L7_RECORDS_EGRESS);
    return L7_CONNECT_REFUSE;
}

// Whether any worker listens for the pod. Asked here so that with none left the app gets an error at once: l7_sk_lookup
// refuses too, but the kernel has no reset for a steered IPv4 SYN, and that would be a time-out (seen).
static __always_inline bool l7_has_listener(u32 endpoint, bool six) {
    u32 base = l7_first_slot(endpoint, L7_EGRESS, six);
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

static __always_inline int l7_connect(struct bpf_sock_addr *ctx, const struct l7_addr *dst) {
    u64 cookie = bpf_get_netns_cookie(ctx);
    u32 *id = l7_netns.lookup(&cookie);
    if (!id)
        return L7_CONNECT_PASS; // not a pod of ours
    // Our workers dial from inside the pod's netns. They are known by the connecting task's cgroup, never by a mark.
    u64 cgroup = bpf_get_current_cgroup_id();
    if (l7_own_cgroups.lookup(&cgroup))
        return L7_CONNECT_PASS;
    // UDP and raw sockets are left alone for now (unconnected UDP needs sendmsg hooks beside these); the verdict's key
    // has the protocol in it. Every other stream protocol (SCTP) is judged under its own number: no rule, no way.
    if (ctx->type != L7_SOCK_STREAM)
        return L7_CONNECT_PASS;
    u16 protocol = ctx->protocol;
    if (protocol == L7_PROTO_MPTCP)
        protocol = IPPROTO_TCP; // on the wire it is TCP with options

    struct l7_endpoint *ep = l7_endpoints.lookup(id);
    if (!ep) {
        l7_count(L7_R_NO_ENDPOINT);
        return L7_CONNECT_REFUSE;
    }
    u32 mark = 0;
    if ((ep->flags & L7_F_EGRESS) && !(ep->flags & L7_F_STOPPED) && !l7_is_loopback(dst) && !l7_is_unspecified(dst) &&
        !l7_is_own(ep, dst)) {
        if (l7_is_link_local(dst))
            return l7_refuse_connect(ctx, ep, dst, 0, protocol, L7_R_LINK_LOCAL);
        u32 identity = l7_identity_of(dst);
        if (!ctx->sk || (ctx->sk->bound_dev_if != 0 && ctx->sk->bound_dev_if != L7_LO_IFINDEX))
            return l7_refuse_connect(ctx, ep, dst, identity, protocol, L7_R_BOUND_DEVICE);
        struct l7_decision said = l7_decide(ep->id, L7_EGRESS, identity, (u8)protocol, (u16)ctx->user_port);
        if (said.answer == L7_DENY)
            return l7_refuse_connect(ctx, ep, dst, identity, protocol, said.reason);
        if (said.answer == L7_PROXY) {
            if (!l7_has_listener(ep->id, !l7_is4(dst)))
                return l7_refuse_connect(ctx, ep, dst, identity, protocol, L7_R_NO_LISTENER);
            mark = L7_STEER_MARK;
        }
    }
    if (!l7_write_mark(ctx, mark))
        return l7_refuse_connect(ctx, ep, dst, 0, protocol, L7_R_MARK_FAILED);
    return L7_CONNECT_PASS;
}
