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

static __always_inline void l7_report_connect(struct bpf_sock_addr *ctx, const struct l7_endpoint *ep,
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
    // has the protocol in it.
    if (ctx->type != L7_SOCK_STREAM)
        return L7_CONNECT_PASS;
    u8 protocol = l7_protocol(ctx->protocol);
    u16 shown = protocol == L7_PROTO_OTHER ? ctx->protocol : protocol; // in records

    struct l7_endpoint *ep = l7_endpoints.lookup(id);
    if (!ep) {
        l7_count(L7_R_NO_ENDPOINT);
        return L7_CONNECT_REFUSE;
    }
    u32 mark = 0;
    u32 identity = 0;
    u8 reason = L7_R_NONE;  // of a record, if any
    bool refused = false;
    if ((ep->flags & L7_F_EGRESS) && !(ep->flags & L7_F_STOPPED) && !l7_is_loopback(dst) && !l7_is_unspecified(dst) &&
        !l7_is_own(ep, dst)) {
        identity = l7_identity_of(dst);
        struct l7_decision said = l7_decide(ep->id, L7_EGRESS, identity, protocol, (u16)ctx->user_port);
        if (l7_is_link_local(dst)) {
            reason = L7_R_LINK_LOCAL;
            refused = true;
        } else if (!ctx->sk || (ctx->sk->bound_dev_if != 0 && ctx->sk->bound_dev_if != L7_LO_IFINDEX)) {
            reason = L7_R_BOUND_DEVICE;
            refused = true;
        } else if (said.answer == L7_DENY) {
            reason = said.reason;
            refused = true;
        } else if (said.answer == L7_ALLOW) {
            if (said.flags & L7_V_AUDIT)
                reason = L7_R_WOULD_DENY;
        } else if (protocol != IPPROTO_TCP) {
            reason = L7_R_NOT_STEERED;
            refused = true;
        } else if (l7_has_listener(ep->id, L7_EGRESS, !l7_is4(dst))) {
            mark = L7_STEER_MARK;
        } else {
            // Asked here so that with no worker left the app gets an error at once: l7_sk_lookup refuses too, but the
            // kernel has no reset for a steered IPv4 SYN, and that would be a time-out (seen). A worker that ends
            // between this and the SYN means that time-out also where the policy says open: the mark is written.
            refused = !(said.flags & L7_V_FAIL_OPEN);
            reason = refused ? L7_R_NO_LISTENER : L7_R_FAIL_OPEN;
        }
    }
    if (!refused && !l7_write_mark(ctx, mark)) {
        reason = L7_R_MARK_FAILED;
        refused = true;
    }
    if (reason != L7_R_NONE)
        l7_report_connect(ctx, ep, dst, identity, shown, reason);
    return refused ? L7_CONNECT_REFUSE : L7_CONNECT_PASS;
}
