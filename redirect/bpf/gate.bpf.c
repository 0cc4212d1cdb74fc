// tc egress of the pod's own devices: the last gate. Raw and packet sockets meet no connect hook, nor does a kernel
// client, nor a process that came into the netns from another cgroup. The first segment of a TCP connection (SYN
// without ACK) that leaves the pod is judged by the same verdict map; where the answer is proxy, only sockets of our
// own cgroups may send it.
//
// A later segment matters only where somebody else's connection takes it: CAP_NET_RAW reads the sequence numbers of our
// upstream leg off eth0 and writes a request of its own into it (seen). So of what no TCP socket sent nothing passes
// that carries bytes to a proxied destination, nor into any connection that lives in this netns, unless all is allowed
// there. The rest does: without a first segment a server answers with a reset. (Whose connection it is cannot be asked:
// bpf_sk_cgroup_id is not for tc programs; and behind a leg that is gone its server may still wait for more.)
//
// It does not see PACKET_QDISC_BYPASS and AF_XDP: l7_setsockopt refuses those. A UDP tunnel, or a peer who helps, is
// beyond it. The frame's own type counts, not skb->protocol, which a packet socket sets as it likes.
#include "report.bpf.h"

#define L7_TC_PASS 0 // TC_ACT_OK
#define L7_TC_DROP 2 // TC_ACT_SHOT
#define L7_ETHERNET 14
#define L7_EXTENSIONS 6 // IPv6 extension headers that are followed; more is refused, nobody sends them
#define L7_TCP_LISTEN 10

enum l7_kind {
    L7_UNREADABLE = -1, // could be a first segment
    L7_OTHER = 0,       // not TCP, or harmless
    L7_FIRST = 1,       // SYN without ACK
    L7_LATER = 2,
    L7_FRAGMENT = 3, // of a segment that is not a first one; without ports where it is not the fragment with the header
};

struct l7_segment {
    struct l7_addr src;
    struct l7_addr dst;
    u16 sport_be;
    u16 dport_be;
    bool routed;   // by a routing header: goes somewhere else in the end
    bool options;  // IPv4 ones, of which a source route is one
    bool fragment; // more follow
    bool carries;  // bytes, or an end: what the kernel sends from no connection's socket has neither
};

static __always_inline int l7_parse_tcp(struct __sk_buff *skb, u32 offset, struct l7_segment *out) {
    u8 head[14]; // ports, sequence, acknowledgement, length and flags
    if (bpf_skb_load_bytes(skb, offset, head, sizeof(head)) != 0)
        return L7_UNREADABLE; // flags in the next fragment (RFC 3128)
    out->sport_be = bpf_htons((head[0] << 8) | head[1]);
    out->dport_be = bpf_htons((head[2] << 8) | head[3]);
    if ((head[13] & 0x12) == 0x02)
        return L7_FIRST;
    // A reset carries nothing that is read, and ends no connection but the pod's own. The kernel sends them from a
    // socket of its own, also for a leg of ours that is still there: without it a SYN that meets an old half of its
    // 4-tuple at the server would never get through (RFC 9293 3.5.1).
    if (head[13] & 0x04)
        return L7_OTHER;
    out->carries = (head[13] & 0x01) || skb->len > offset + (head[12] >> 4) * 4;
    return out->fragment ? L7_FRAGMENT : L7_LATER;
}

static __always_inline int l7_parse4(struct __sk_buff *skb, struct l7_segment *out) {
    u8 head[20];
    if (bpf_skb_load_bytes(skb, L7_ETHERNET, head, sizeof(head)) != 0)
        return L7_UNREADABLE;
    if (head[9] != IPPROTO_TCP)
        return L7_OTHER;
    l7_addr_set4(&out->src, *(u32 *)&head[12]);
    l7_addr_set4(&out->dst, *(u32 *)&head[16]);
    u16 fragment = ((head[6] << 8) | head[7]) & 0x1fff; // in units of 8 bytes
    if (fragment == 1)
        return L7_UNREADABLE; // would write over the flags of the first one (RFC 3128)
    if (fragment)
        return L7_FRAGMENT;
    out->fragment = head[6] & 0x20;
    out->options = (head[0] & 0xf) > 5;
    return l7_parse_tcp(skb, L7_ETHERNET + (head[0] & 0xf) * 4, out);
}

static __always_inline int l7_parse6(struct __sk_buff *skb, struct l7_segment *out) {
    u32 head[10];
    if (bpf_skb_load_bytes(skb, L7_ETHERNET, head, sizeof(head)) != 0)
        return L7_UNREADABLE;
    __builtin_memcpy(&out->src, &head[2], 16);
    __builtin_memcpy(&out->dst, &head[6], 16);
    u8 next = ((u8 *)head)[6];
    u32 offset = L7_ETHERNET + 40;
    for (u32 i = 0; i < L7_EXTENSIONS; i++) {
        if (next == IPPROTO_TCP)
            return l7_parse_tcp(skb, offset, out);
        if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_FRAGMENT && next != IPPROTO_DSTOPTS &&
            next != IPPROTO_AH)
            return L7_OTHER;
        u8 extension[4];
        if (bpf_skb_load_bytes(skb, offset, extension, sizeof(extension)) != 0)
            return L7_UNREADABLE;
        u32 length = (extension[1] + 1) * 8;
        if (next == IPPROTO_FRAGMENT) {
            u16 fragment = ((extension[2] << 8) | extension[3]) >> 3;
            out->fragment = extension[3] & 1;
            // Overlapping ones are dropped by the receiver (RFC 5722), and what follows the header counts in the first
            // one alone (RFC 8200 4.5), which is refused: this is for a first one that came another way.
            if (fragment)
                return extension[0] == IPPROTO_UDP || extension[0] == IPPROTO_ICMPV6 ? L7_OTHER : L7_FRAGMENT;
            length = 8;
        } else if (next == IPPROTO_AH) {
            length = (extension[1] + 2) * 4;
        } else if (next == IPPROTO_ROUTING) {
            out->routed = true;
        }
        next = extension[0];
        offset += length;
    }
    return L7_UNREADABLE;
}

// Sent by a TCP socket: that sends nothing but segments of its own connection, which no one else has.
static __always_inline bool l7_sent_by_tcp(struct __sk_buff *skb) {
    struct bpf_sock *sk = skb->sk;
    if (!sk)
        return false;
    sk = bpf_sk_fullsock(sk);
    return sk && sk->type == L7_SOCK_STREAM && sk->protocol == IPPROTO_TCP;
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

int l7_gate(struct __sk_buff *skb) {
    u32 id = l7_this_endpoint();
    struct l7_endpoint *ep = l7_endpoints.lookup(&id);
    if (ep && (!(ep->flags & L7_F_EGRESS) || (ep->flags & L7_F_STOPPED)))
        return L7_TC_PASS;
    struct l7_segment segment = {};
    u8 type[2];
    int kind = L7_OTHER;
    if (bpf_skb_load_bytes(skb, 12, type, sizeof(type)) != 0)
        return L7_TC_PASS; // shorter than an Ethernet header
    if (type[0] == 0x08 && type[1] == 0x00)
        kind = l7_parse4(skb, &segment);
    else if (type[0] == 0x86 && type[1] == 0xdd)
        kind = l7_parse6(skb, &segment);
    else if ((type[0] == 0x81 && type[1] == 0x00) || (type[0] == 0x88 && type[1] == 0xa8))
        // A VLAN tag inside the frame. Devices keep theirs beside it until after this hook, so it is a packet socket's,
        // and the node takes VLAN 0 for no tag at all (seen: a SYN that got past).
        kind = L7_UNREADABLE;
    if (kind == L7_OTHER)
        return L7_TC_PASS;
    bool later = kind == L7_LATER || kind == L7_FRAGMENT;
    if (!ep && !later) {
        l7_count(L7_R_NO_ENDPOINT);
        return L7_TC_DROP;
    }
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
        identity = l7_identity_of(&segment.dst);
        struct l7_decision said = l7_decide(id, L7_EGRESS, identity, IPPROTO_TCP, segment.dport_be);
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
    event.endpoint = id;
    event.identity = identity;
    event.src = segment.src;
    event.dst = segment.dst;
    event.sport = bpf_ntohs(segment.sport_be);
    event.dport = bpf_ntohs(segment.dport_be);
    event.protocol = IPPROTO_TCP;
    event.direction = L7_EGRESS;
    event.reason = L7_R_RAW_PACKET;
    l7_report(&event, L7_RECORDS_INGRESS);
    return L7_TC_DROP;
}
