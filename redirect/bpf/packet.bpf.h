// Reading a frame on a device of the pod: what both gates judge it by. The frame's own type counts, not skb->protocol,
// which a packet socket sets as it likes.
#pragma once

#include "flows.bpf.h"

#define L7_TC_PASS 0 // TC_ACT_OK
#define L7_TC_DROP 2 // TC_ACT_SHOT
#define L7_ETHERNET 14
#define L7_EXTENSIONS 6 // IPv6 extension headers that are followed; more is refused, nobody sends them

enum l7_kind {
    L7_UNREADABLE = -1, // could be a first segment
    L7_OTHER = 0,       // not judged: ARP, what keeps a link alive, answers and errors of ICMP, resets
    L7_FIRST = 1,       // SYN without ACK
    L7_LATER = 2,
    L7_FRAGMENT = 3, // of a segment that is not a first one; without ports where it is not the fragment with the header
    L7_DATAGRAM = 4, // UDP, and every protocol but TCP and ICMP: judged with its flow
    L7_REQUEST = 5,  // ICMP that asks for something: judged alone, as answers to it always pass
    L7_REST = 6,     // a later fragment of a datagram: nothing without the first, which is judged
};

struct l7_segment {
    struct l7_addr src;
    struct l7_addr dst;
    u16 sport_be; // 0 where the protocol has no ports
    u16 dport_be;
    u8 protocol;
    bool routed;   // by a routing header: goes somewhere else in the end
    bool options;  // IPv4 ones, of which a source route is one
    bool fragment; // more follow
    bool everyone; // for every hardware address on the link, and no multicast group of IP: a broadcast
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

// RFC 792: what is no error and no reply asks. Redirects are the node's to give.
static __always_inline bool l7_icmp_asks(u8 type) {
    return type != 0 && type != 3 && type != 4 && type != 5 && type != 11 && type != 12 && type != 14;
}

// RFC 4443 errors, the echo reply, MLD (RFC 2710, RFC 3810) and neighbour discovery (RFC 4861) pass.
static __always_inline bool l7_icmp6_asks(u8 type) {
    return type != 129 && !(type >= 1 && type <= 4) && !(type >= 130 && type <= 137) && type != 143;
}

// Not TCP. A datagram that came in fragments shows its ports in the first one alone.
static __always_inline int l7_parse_datagram(struct __sk_buff *skb, u32 offset, bool later, struct l7_segment *out) {
    u8 protocol = out->protocol;
    u8 head[4];
    if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6) {
        if (later)
            return L7_REST;
        if (bpf_skb_load_bytes(skb, offset, head, 1) != 0)
            return L7_UNREADABLE;
        bool six = !l7_is4(&out->src);
        if ((protocol == IPPROTO_ICMPV6) != six)
            return L7_DATAGRAM; // the other family's: no kernel reads it
        return (six ? l7_icmp6_asks(head[0]) : l7_icmp_asks(head[0])) ? L7_REQUEST : L7_OTHER;
    }
    if (protocol == IPPROTO_IGMP && l7_is4(&out->src))
        return L7_OTHER; // as MLD
    if (protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE || protocol == IPPROTO_SCTP || protocol == IPPROTO_DCCP) {
        if (later)
            return L7_REST;
        if (bpf_skb_load_bytes(skb, offset, head, sizeof(head)) != 0)
            return L7_UNREADABLE;
        out->sport_be = bpf_htons((head[0] << 8) | head[1]);
        out->dport_be = bpf_htons((head[2] << 8) | head[3]);
    }
    return L7_DATAGRAM;
}

static __always_inline int l7_parse4(struct __sk_buff *skb, struct l7_segment *out) {
    u8 head[20];
    if (bpf_skb_load_bytes(skb, L7_ETHERNET, head, sizeof(head)) != 0)
        return L7_UNREADABLE;
    out->protocol = head[9];
    l7_addr_set4(&out->src, *(u32 *)&head[12]);
    l7_addr_set4(&out->dst, *(u32 *)&head[16]);
    u16 fragment = ((head[6] << 8) | head[7]) & 0x1fff; // in units of 8 bytes
    out->fragment = head[6] & 0x20;
    out->options = (head[0] & 0xf) > 5;
    u32 offset = L7_ETHERNET + (head[0] & 0xf) * 4;
    if (head[9] != IPPROTO_TCP)
        return l7_parse_datagram(skb, offset, fragment != 0, out);
    if (fragment == 1)
        return L7_UNREADABLE; // would write over the flags of the first one (RFC 3128)
    if (fragment)
        return L7_FRAGMENT;
    return l7_parse_tcp(skb, offset, out);
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
        if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_FRAGMENT && next != IPPROTO_DSTOPTS &&
            next != IPPROTO_AH) {
            out->protocol = next;
            if (next == IPPROTO_TCP)
                return l7_parse_tcp(skb, offset, out);
            return l7_parse_datagram(skb, offset, false, out);
        }
        u8 extension[4];
        if (bpf_skb_load_bytes(skb, offset, extension, sizeof(extension)) != 0)
            return L7_UNREADABLE;
        u32 length = (extension[1] + 1) * 8;
        if (next == IPPROTO_FRAGMENT) {
            u16 fragment = ((extension[2] << 8) | extension[3]) >> 3;
            out->fragment = extension[3] & 1;
            // Overlapping ones are dropped by the receiver (RFC 5722), and what follows the header counts in the first
            // one alone (RFC 8200 4.5), which is refused: this is for a first one that came another way.
            if (fragment) {
                out->protocol = extension[0];
                return extension[0] == IPPROTO_UDP || extension[0] == IPPROTO_ICMPV6 || extension[0] == IPPROTO_SCTP
                           ? L7_REST
                           : L7_FRAGMENT;
            }
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

// One of l7_kind.
static __always_inline int l7_parse(struct __sk_buff *skb, struct l7_segment *out) {
    u8 type[2], group[1];
    if (bpf_skb_load_bytes(skb, 12, type, sizeof(type)) != 0 || bpf_skb_load_bytes(skb, 0, group, sizeof(group)) != 0)
        return L7_OTHER; // shorter than an Ethernet header
    if (type[0] == 0x08 && type[1] == 0x00) {
        int kind = l7_parse4(skb, out);
        out->everyone = (group[0] & 1) && (bpf_ntohl(out->dst.word_be[3]) >> 28) != 0xe;
        return kind;
    }
    if (type[0] == 0x86 && type[1] == 0xdd)
        return l7_parse6(skb, out);
    // A VLAN tag inside the frame. Devices keep theirs beside it until after this hook, so it is a packet socket's, and
    // the node takes VLAN 0 for no tag at all (seen: a SYN that got past).
    if ((type[0] == 0x81 && type[1] == 0x00) || (type[0] == 0x88 && type[1] == 0xa8))
        return L7_UNREADABLE;
    return L7_OTHER;
}

static __always_inline void l7_event_of(struct l7_event *event, u32 endpoint, u8 direction, u32 identity,
                                        const struct l7_segment *segment, u8 reason) {
    event->endpoint = endpoint;
    event->identity = identity;
    event->src = segment->src;
    event->dst = segment->dst;
    event->sport = bpf_ntohs(segment->sport_be);
    event->dport = bpf_ntohs(segment->dport_be);
    event->protocol = segment->protocol;
    event->direction = direction;
    event->reason = reason;
}
