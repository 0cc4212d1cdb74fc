// tc egress of the pod's own devices: the last gate. Raw and packet sockets meet no connect hook, nor does a kernel
// client, nor a process that came into the netns from another cgroup. The first segment of a TCP connection (SYN
// without ACK) that leaves the pod is judged by the same verdict map; where the answer is proxy, only sockets of our
// own cgroups may send it. All else passes: without a first segment a server answers with a reset.
//
// It does not see PACKET_QDISC_BYPASS and AF_XDP: l7_setsockopt refuses those. A UDP tunnel, or a peer who helps, is
// beyond it. The frame's own type counts, not skb->protocol, which a packet socket sets as it likes.
#include "report.bpf.h"

#define L7_TC_PASS 0 // TC_ACT_OK
#define L7_TC_DROP 2 // TC_ACT_SHOT
#define L7_ETHERNET 14
#define L7_EXTENSIONS 6 // IPv6 extension headers that are followed; more is refused, nobody sends them

struct l7_segment {
    struct l7_addr src;
    struct l7_addr dst;
    u16 sport_be;
    u16 dport_be;
    bool routed; // by a routing header: goes somewhere else in the end
};

// 1: `out` is a first segment; 0: it is not; -1: what cannot be read and could be one.
static __always_inline int l7_parse_tcp(struct __sk_buff *skb, u32 offset, struct l7_segment *out) {
    u8 head[14]; // ports, sequence, acknowledgement, length and flags
    if (bpf_skb_load_bytes(skb, offset, head, sizeof(head)) != 0)
        return -1; // flags in the next fragment (RFC 3128)
    if ((head[13] & 0x12) != 0x02)
        return 0;
    out->sport_be = bpf_htons((head[0] << 8) | head[1]);
    out->dport_be = bpf_htons((head[2] << 8) | head[3]);
    return 1;
}

static __always_inline int l7_parse4(struct __sk_buff *skb, struct l7_segment *out) {
    u8 head[20];
    if (bpf_skb_load_bytes(skb, L7_ETHERNET, head, sizeof(head)) != 0)
        return -1;
    if (head[9] != IPPROTO_TCP)
        return 0;
    u16 fragment = ((head[6] << 8) | head[7]) & 0x1fff; // in units of 8 bytes
    if (fragment == 1)
        return -1; // would write over the flags of the first one (RFC 3128)
    if (fragment)
        return 0;
    l7_addr_set4(&out->src, *(u32 *)&head[12]);
    l7_addr_set4(&out->dst, *(u32 *)&head[16]);
    return l7_parse_tcp(skb, L7_ETHERNET + (head[0] & 0xf) * 4, out);
}

static __always_inline int l7_parse6(struct __sk_buff *skb, struct l7_segment *out) {
    u32 head[10];
    if (bpf_skb_load_bytes(skb, L7_ETHERNET, head, sizeof(head)) != 0)
        return -1;
    __builtin_memcpy(&out->src, &head[2], 16);
    __builtin_memcpy(&out->dst, &head[6], 16);
    u8 next = ((u8 *)head)[6];
    u32 offset = L7_ETHERNET + 40;
    for (u32 i = 0; i < L7_EXTENSIONS; i++) {
        if (next == IPPROTO_TCP)
            return l7_parse_tcp(skb, offset, out);
        if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_FRAGMENT && next != IPPROTO_DSTOPTS &&
            next != IPPROTO_AH)
            return 0;
        u8 extension[4];
        if (bpf_skb_load_bytes(skb, offset, extension, sizeof(extension)) != 0)
            return -1;
        u32 length = (extension[1] + 1) * 8;
        if (next == IPPROTO_FRAGMENT) {
            u16 fragment = ((extension[2] << 8) | extension[3]) >> 3;
            if (fragment)
                return 0; // overlapping ones are dropped by the receiver (RFC 5722)
            length = 8;
        } else if (next == IPPROTO_AH) {
            length = (extension[1] + 2) * 4;
        } else if (next == IPPROTO_ROUTING) {
            out->routed = true;
        }
        next = extension[0];
        offset += length;
    }
    return -1;
}

int l7_gate(struct __sk_buff *skb) {
    u32 id = l7_this_endpoint();
    struct l7_endpoint *ep = l7_endpoints.lookup(&id);
    if (ep && (!(ep->flags & L7_F_EGRESS) || (ep->flags & L7_F_STOPPED)))
        return L7_TC_PASS;
    struct l7_segment segment = {};
    u8 type[2];
    int first = 0;
    if (bpf_skb_load_bytes(skb, 12, type, sizeof(type)) != 0)
        return L7_TC_PASS; // shorter than an Ethernet header
    if (type[0] == 0x08 && type[1] == 0x00)
        first = l7_parse4(skb, &segment);
    else if (type[0] == 0x86 && type[1] == 0xdd)
        first = l7_parse6(skb, &segment);
    if (!first)
        return L7_TC_PASS;
    if (!ep) {
        l7_count(L7_R_NO_ENDPOINT);
        return L7_TC_DROP;
    }
    u64 cgroup = bpf_skb_cgroup_id(skb);
    if (l7_own_cgroups.lookup(&cgroup))
        return L7_TC_PASS; // an upstream leg of ours
    u32 identity = 0;
    if (first > 0 && !segment.routed && !l7_is_link_local(&segment.dst)) {
        identity = l7_identity_of(&segment.dst);
        struct l7_decision said = l7_decide(id, L7_EGRESS, identity, IPPROTO_TCP, segment.dport_be);
        if (said.answer == L7_ALLOW)
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
