// tc egress of the pod's own devices: the last gate. Raw and packet sockets meet no connect hook, nor does a kernel
// client, nor a process that came into the netns from another cgroup. The first segment of a TCP connection (SYN
// without ACK) that leaves the pod is judged by the same verdict map; where the answer is proxy, only sockets of our
// own cgroups may send it. Every datagram is judged (flows.bpf.h), as are the requests of ICMP.
//
// A later segment matters only where somebody else's connection takes it: CAP_NET_RAW reads the sequence numbers of our
// upstream leg off eth0 and writes a request of its own into it (seen). So of what no TCP socket sent nothing passes
// that carries bytes to a proxied destination, nor into any connection that lives in this netns, unless all is allowed
// there. The rest does: without a first segment a server answers with a reset. (Whose connection it is cannot be asked:
// bpf_sk_cgroup_id is not for tc programs; and behind a leg that is gone its server may still wait for more.)
//
// It does not see PACKET_QDISC_BYPASS and AF_XDP: l7_setsockopt refuses those. A tunnel inside what
// is allowed, or a peer who helps, is beyond it.
#include "packet.bpf.h"

#define L7_TCP_LISTEN 10

// Sent by a TCP socket: that sends nothing but segments of its own connection, which no one else has.
static __always_inline bool l7_sent_by_tcp(struct __sk_buff *skb) {
    struct bpf_sock *sk = skb->sk;
    if (!sk)
        return false;
    sk = bpf_sk_fullsock(sk);
    return sk && sk->type == L7_SOCK_STREAM && sk->protocol == IPPROTO_TCP;
}

// Sent by a socket that makes whole datagrams of this protocol: the kernel cut it up, and no fragment lies. One that a
// raw or packet socket wrote could change, at a receiver that lets fragments overlap, what the first one showed.
static __always_inline bool l7_sent_whole(struct __sk_buff *skb, u8 protocol) {
    struct bpf_sock *sk = skb->sk;
    if (!sk)
        return false;
    sk = bpf_sk_fullsock(sk);
    return sk && sk->type != L7_SOCK_RAW && sk->protocol == protocol;
}

// Whether the segment's own end is a connection in this netns. A look-up that finds no connection goes on to listeners
// and would run l7_sk_lookup as if the segment had come in: refusals, and records of them, that any pod could forge.
static __always_inline bool l7_is_connected(struct __sk_buff *skb, const struct l7_segment *segment) {
    struct bpf_sock_tuple tuple = {}; // as of a packet that comes in: the remote end is its source
    u32 size;
    if (l7_is4(&segment->src)) {
        tuple.ipv4.saddr = segment->dst.word_be[3];
        tuple.ipv4.daddr = segment->src.word_be[3];
        tuple.ipv4.sport = segment->dport_be;
        tuple.ipv4.dport = segment->sport_be;
        size = sizeof(tuple.ipv4);
    } else {
        __builtin_memcpy(tuple.ipv6.saddr, &segment->dst, 16);
        __builtin_memcpy(tuple.ipv6.daddr, &segment->src, 16);
        tuple.ipv6.sport = segment->dport_be;
        tuple.ipv6.dport = segment->sport_be;
        size = sizeof(tuple.ipv6);
    }
    u32 zero = 0;
    u32 *asking = l7_asking.lookup(&zero);
    if (!asking)
        return true; // never
    *asking = 1;
    struct bpf_sock *sk;
    if (size == sizeof(tuple.ipv4)) // a size that is no constant is refused by the verifier
        sk = bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
    else
        sk = bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
    *asking = 0;
    if (!sk)
        return false; // nobody, or TIME_WAIT, whose answers the kernel sends from a socket of its own
    bool connected = sk->state != L7_TCP_LISTEN; // which stands for a handshake under way: the kernel answers that
    bpf_sk_release(sk);
    return connected;
}

static __always_inline int l7_gate_datagram(struct __sk_buff *skb, const struct l7_endpoint *ep, int kind,
                                            const struct l7_segment *segment) {
    u64 cgroup = bpf_skb_cgroup_id(skb);
    if (l7_own_cgroups.lookup(&cgroup))
        return L7_TC_PASS;
    struct l7_decision said = {.answer = L7_DENY, .reason = L7_R_RAW_PACKET, .flags = 0};
    u32 identity = 0;
    if (kind == L7_REST || kind == L7_REQUEST) {
        if (!l7_enforced(ep, L7_EGRESS))
            return L7_TC_PASS;
        if (kind == L7_REST && (ep->flags & L7_F_WATCH_EGRESS))
            return L7_TC_PASS;
        if (kind == L7_REST) {
            if (segment->protocol == IPPROTO_ICMP || segment->protocol == IPPROTO_ICMPV6 ||
                l7_sent_whole(skb, segment->protocol))
                return L7_TC_PASS;
        } else {
            identity = segment->everyone ? 0 : l7_identity_of(&segment->dst);
            said = l7_decide_datagram(ep, L7_EGRESS, identity, segment->protocol, 0);
        }
    } else if (l7_enforced(ep, L7_EGRESS) && !(ep->flags & L7_F_WATCH_EGRESS) &&
               (segment->options || segment->routed)) {
        said.reason = L7_R_UNREADABLE; // a source route takes it to another destination than it shows
    } else if (segment->everyone) {
        // The broadcast address of a subnet is world by the maps, or of a prefix that somebody named: it reaches pods
        // that neither names (seen). Nobody in particular, and no one answers from it.
        said = l7_decide_datagram(ep, L7_EGRESS, 0, segment->protocol, segment->dport_be);
    } else {
        said = l7_judge_out(ep, &segment->dst, segment->protocol, segment->dport_be, segment->sport_be, &identity);
    }
    if (said.answer == L7_ALLOW && !(said.flags & L7_V_AUDIT))
        return L7_TC_PASS;
    struct l7_event event = {};
    u8 reason = said.answer == L7_ALLOW ? L7_R_WOULD_DENY : said.reason;
    l7_event_of(&event, ep->id, L7_EGRESS, identity, segment, reason);
    l7_report(&event, L7_RECORDS_INGRESS);
    return said.answer == L7_ALLOW ? L7_TC_PASS : L7_TC_DROP;
}

int l7_gate(struct __sk_buff *skb) {
    u32 id = l7_this_endpoint();
    struct l7_endpoint *ep = l7_endpoints.lookup(&id);
    if (ep && (!(ep->flags & (L7_F_EGRESS | L7_F_INGRESS)) || (ep->flags & L7_F_STOPPED)))
        return L7_TC_PASS;
    struct l7_segment segment = {};
    int kind = l7_parse(skb, &segment);
    if (kind == L7_OTHER)
        return L7_TC_PASS;
    bool later = kind == L7_LATER || kind == L7_FRAGMENT;
    if (!ep && !later) {
        l7_count(L7_R_NO_ENDPOINT);
        return L7_TC_DROP;
    }
    if (ep && kind >= L7_DATAGRAM)
        return l7_gate_datagram(skb, ep, kind, &segment);
    if (ep && (!(ep->flags & L7_F_EGRESS) || (ep->flags & L7_F_WATCH_EGRESS)))
        return L7_TC_PASS; // watched: l7_connect records, and what came past it is not held
    u64 cgroup = bpf_skb_cgroup_id(skb);
    if (l7_own_cgroups.lookup(&cgroup))
        return L7_TC_PASS; // an upstream leg of ours
    if (later) {
        if (l7_sent_by_tcp(skb))
            return L7_TC_PASS;
        // Fragments show no ports and are refused altogether: TCP fits its segments to the path (RFC 8201, RFC 1191).
        // So is what a source route could take to another destination than it shows.
        if (segment.options)
            kind = L7_FRAGMENT;
    }
    u32 identity = 0;
    if ((kind == L7_FIRST || kind == L7_LATER) && !segment.routed && !l7_is_link_local(&segment.dst)) {
        u16 port_be = segment.dport_be;
        identity = l7_identity_to(&segment.dst, IPPROTO_TCP, &port_be);
        struct l7_decision said = l7_decide(id, L7_EGRESS, identity, IPPROTO_TCP, port_be);
        if (said.answer == L7_ALLOW)
            return L7_TC_PASS;
        // Nobody listens and the policy says open: l7_connect let it go unmarked. (It may listen again by now.)
        if (said.answer == L7_PROXY && (said.flags & L7_V_FAIL_OPEN) &&
            !l7_has_listener(id, L7_EGRESS, !l7_is4(&segment.dst)))
            return L7_TC_PASS;
        if (later && !(said.answer == L7_PROXY && segment.carries) && !l7_is_connected(skb, &segment))
            return L7_TC_PASS;
    }
    struct l7_event event = {};
    if (!segment.protocol)
        segment.protocol = IPPROTO_TCP; // nothing could be read
    l7_event_of(&event, id, L7_EGRESS, identity, &segment, L7_R_RAW_PACKET);
    l7_report(&event, L7_RECORDS_INGRESS);
    return L7_TC_DROP;
}
