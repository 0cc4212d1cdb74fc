// Datagrams: UDP, and every other protocol but TCP and ICMP. They have no first packet that a hook could tell, so what
// was allowed is remembered, and what comes back is not judged as new.
//
// A flow is (netns, remote address and port, own port, protocol), and knows when a packet was last let through by
// the rules of each direction. What the rules of its own direction do not allow is an answer, and passes, if the other
// direction's let a packet of the flow through in the last 180 s (as long as Linux's own tracker keeps a UDP stream)
// AND would let it through now: a policy that was withdrawn ends the answers, too. An answer keeps its flow alive.
//
// l7_gate and l7_gate_in see every packet with all it is judged by, and fill the table; the hooks on connect and sendmsg
// and l7_sk_lookup judge the same way, for an error at once and in case somebody took the gates off the device.
// Bounded: the flow that was used least goes first; its answers are then refused until the pod sends again.
#pragma once

#include "report.bpf.h"

#define L7_FLOW_NS 180000000000LL // 180 s
#define L7_STAMP_NS 1000000000LL  // 1 s: busy flows are not written to by every packet

static __always_inline bool l7_enforced(const struct l7_endpoint *ep, u8 direction) {
    return ep->flags & (direction == L7_EGRESS ? L7_F_EGRESS : L7_F_INGRESS);
}

// What the rules of one direction say of a datagram. There is no proxy for it: to be steered is to be refused.
static __always_inline struct l7_decision l7_decide_datagram(const struct l7_endpoint *ep, u8 direction, u32 identity,
                                                             u8 protocol, u16 port_be) {
    struct l7_decision said = {.answer = L7_ALLOW, .reason = L7_R_NONE, .flags = 0};
    if (!l7_enforced(ep, direction))
        return said;
    protocol = l7_protocol(protocol);
    said = l7_decide(ep->id, direction, identity, protocol, protocol == IPPROTO_UDP ? port_be : 0);
    if (said.answer == L7_PROXY) {
        said.answer = L7_DENY;
        said.reason = L7_R_NOT_STEERED;
        said.flags = 0;
    }
    return said;
}

// Judge a datagram and remember it if its own direction allows it. identity is the remote's as a source (ingress_id)
// and as a destination (egress_id): the two differ where a source proves nothing.
static __always_inline struct l7_decision l7_judge(const struct l7_endpoint *ep, u8 direction,
                                                   const struct l7_addr *remote, u32 egress_id, u32 ingress_id,
                                                   u8 protocol, u16 remote_port_be, u16 judged_port_be,
                                                   u16 local_port_be) {
    struct l7_flow_key key = {};
    key.remote = *remote;
    key.cookie = ep->cookie;
    key.remote_port_be = remote_port_be;
    key.local_port_be = local_port_be;
    key.protocol = protocol;
    u64 now = bpf_ktime_get_ns();
    struct l7_flow *flow = l7_flows.lookup(&key);
    struct l7_decision said = {.answer = L7_ALLOW, .reason = L7_R_NONE, .flags = 0};
    if (direction == L7_EGRESS) {
        if (flow && flow->ingress_ns && (s64)(now - flow->ingress_ns) < L7_FLOW_NS) {
            struct l7_decision began = l7_decide_datagram(ep, L7_INGRESS, ingress_id, protocol, local_port_be);
            if (began.answer == L7_ALLOW) {
                if ((s64)(now - flow->ingress_ns) > L7_STAMP_NS)
                    flow->ingress_ns = now;
                return said;
            }
        }
        said = l7_decide_datagram(ep, L7_EGRESS, egress_id, protocol, judged_port_be);
    } else {
        if (flow && flow->egress_ns && (s64)(now - flow->egress_ns) < L7_FLOW_NS) {
            struct l7_decision began = l7_decide_datagram(ep, L7_EGRESS, egress_id, protocol, judged_port_be);
            if (began.answer == L7_ALLOW) {
                if ((s64)(now - flow->egress_ns) > L7_STAMP_NS)
                    flow->egress_ns = now;
                return said;
            }
        }
        said = l7_decide_datagram(ep, L7_INGRESS, ingress_id, protocol, local_port_be);
    }
    if (said.answer != L7_ALLOW)
        return said;
    if (flow) {
        u64 *seen = direction == L7_EGRESS ? &flow->egress_ns : &flow->ingress_ns;
        if (!*seen || (s64)(now - *seen) > L7_STAMP_NS)
            *seen = now;
    } else {
        struct l7_flow fresh = {};
        if (direction == L7_EGRESS)
            fresh.egress_ns = now;
        else
            fresh.ingress_ns = now;
        l7_flows.update(&key, &fresh);
    }
    return said;
}

// l7_judge for what goes to `remote`, and for what comes from it.
static __always_inline struct l7_decision l7_judge_out(const struct l7_endpoint *ep, const struct l7_addr *remote,
                                                       u8 protocol, u16 remote_port_be, u16 local_port_be,
                                                       u32 *identity) {
    u16 judged_port_be = remote_port_be;
    *identity = l7_identity_to(remote, l7_protocol(protocol), &judged_port_be);
    return l7_judge(ep, L7_EGRESS, remote, *identity, l7_identity_from(remote), protocol, remote_port_be,
                    judged_port_be, local_port_be);
}

static __always_inline struct l7_decision l7_judge_in(const struct l7_endpoint *ep, const struct l7_addr *remote,
                                                      u8 protocol, u16 remote_port_be, u16 local_port_be,
                                                      u32 *identity) {
    u16 judged_port_be = remote_port_be;
    *identity = l7_identity_from(remote);
    u32 egress_id = l7_identity_to(remote, l7_protocol(protocol), &judged_port_be);
    return l7_judge(ep, L7_INGRESS, remote, egress_id, *identity, protocol, remote_port_be, judged_port_be,
                    local_port_be);
}
