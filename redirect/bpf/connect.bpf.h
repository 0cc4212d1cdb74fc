// What the hooks on connect and sendmsg do once the destination is in one form.
//
// The hooks run before the socket chooses a source and a route. For a pod of ours every connect *writes* the mark: the
// steer mark for proxy, 0 for all else. A mark that the app forged (CAP_NET_RAW, which containers have by default, is
// enough) or that an earlier connect left would send this one elsewhere: seen. So a pod whose egress or ingress is
// enforced cannot use SO_MARK on its own TCP connections.
//
// Refused means EPERM. If steering itself fails, the SYN meets a deny: with no rule for the mark in the pod the connect
// is refused by l7_sk_lookup or by the `unreachable` rule (redirect/plumbing.py).
#pragma once

#include "flows.bpf.h"

#define L7_CONNECT_REFUSE 0
#define L7_CONNECT_PASS 1

static __always_inline bool l7_write_mark(struct bpf_sock_addr *ctx, u32 mark) {
    return bpf_setsockopt(ctx, L7_SOL_SOCKET, L7_SO_MARK, &mark, sizeof(mark)) == 0;
}

static __always_inline void l7_report_connect(struct bpf_sock_addr *ctx, const struct l7_endpoint *ep,
                                              const struct l7_addr *dst, u32 identity, u16 protocol, u8 reason,
                                              u32 limit) {
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
    l7_report(&event, limit);
}

// UDP: an error at once where l7_gate would drop every packet, and the destination as the app named it, before any NAT
// of the pod's own. Nothing is steered and no mark written: marks of UDP sockets are the pod's business, and a device
// that one is bound to is no way around, as the gate is on each. A record of what passes is left to the gate, which
// knows the port.
static __always_inline int l7_send_to(struct bpf_sock_addr *ctx, const struct l7_endpoint *ep,
                                      const struct l7_addr *dst) {
    if (!(ep->flags & (L7_F_EGRESS | L7_F_INGRESS)) || (ep->flags & L7_F_STOPPED) || l7_is_loopback(dst) ||
        l7_is_unspecified(dst) || l7_is_own(ep, dst))
        return L7_CONNECT_PASS;
    u16 port_be = (u16)ctx->user_port;
    if (!port_be)
        return L7_CONNECT_PASS; // to ask for a route; getaddrinfo does. What is sent meets the gate.
    u16 local_port_be = ctx->sk ? bpf_htons((u16)ctx->sk->src_port) : 0;
    struct l7_decision said;
    u32 identity;
    if (local_port_be) {
        said = l7_judge_out(ep, dst, ctx->protocol, port_be, local_port_be, &identity);
    } else { // a connect before the port is chosen: no answer, and nothing to remember yet
        identity = l7_identity_to(dst, l7_protocol(ctx->protocol), &port_be);
        said = l7_decide_datagram(ep, L7_EGRESS, identity, ctx->protocol, port_be);
    }
    if (said.answer == L7_ALLOW)
        return L7_CONNECT_PASS;
    u32 limit = local_port_be ? L7_RECORDS_INGRESS : L7_RECORDS_EGRESS;
    l7_report_connect(ctx, ep, dst, identity, (u16)ctx->protocol, said.reason, limit);
    return L7_CONNECT_REFUSE;
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
    bool datagrams = ctx->type == L7_SOCK_DGRAM && (ctx->protocol == IPPROTO_UDP || ctx->protocol == IPPROTO_UDPLITE);
    if (ctx->type != L7_SOCK_STREAM && !datagrams)
        return L7_CONNECT_PASS; // raw sockets, ping: l7_gate judges what they send
    struct l7_endpoint *ep = l7_endpoints.lookup(id);
    if (!ep) {
        l7_count(L7_R_NO_ENDPOINT);
        return L7_CONNECT_REFUSE;
    }
    if (datagrams)
        return l7_send_to(ctx, ep, dst);
    u8 protocol = l7_protocol(ctx->protocol);
    u16 shown = protocol == L7_PROTO_OTHER ? ctx->protocol : protocol; // in records
    u32 mark = 0;
    u32 identity = 0;
    u8 reason = L7_R_NONE;  // of a record, if any
    bool refused = false;
    if ((ep->flags & L7_F_EGRESS) && !(ep->flags & L7_F_STOPPED) && !l7_is_loopback(dst) && !l7_is_unspecified(dst) &&
        !l7_is_own(ep, dst)) {
        u16 port_be = (u16)ctx->user_port;
        identity = l7_identity_to(dst, protocol, &port_be);
        struct l7_decision said =
            l7_decide(ep->id, L7_EGRESS, identity, protocol, protocol == L7_PROTO_OTHER ? 0 : port_be);
        bool watched = ep->flags & L7_F_WATCH_EGRESS;
        bool bound = !ctx->sk || (ctx->sk->bound_dev_if != 0 && ctx->sk->bound_dev_if != L7_LO_IFINDEX);
        if (!watched && l7_is_link_local(dst)) {
            reason = L7_R_LINK_LOCAL;
            refused = true;
        } else if (!watched && bound) {
            reason = L7_R_BOUND_DEVICE;
            refused = true;
        } else if (said.answer == L7_DENY) {
            reason = said.reason;
            refused = true;
        } else if (said.answer == L7_ALLOW) {
            if (said.flags & L7_V_AUDIT)
                reason = L7_R_WOULD_DENY;
        } else if (watched && (bound || l7_is_link_local(dst) || protocol != IPPROTO_TCP)) {
            reason = L7_R_FAIL_OPEN; // it cannot be steered, and is not refused for that
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
        l7_report_connect(ctx, ep, dst, identity, shown, reason, L7_RECORDS_EGRESS);
    return refused ? L7_CONNECT_REFUSE : L7_CONNECT_PASS;
}
