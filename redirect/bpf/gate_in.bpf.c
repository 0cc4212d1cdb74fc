// tc ingress of the pod's own devices: every datagram that comes in, and the requests of ICMP (flows.bpf.h).
//
// l7_sk_lookup alone would not do: it is not asked for what a connected UDP socket takes, nor for multicast and
// broadcast, nor for any protocol but TCP and UDP. TCP passes here: that one is asked for every new connection.
#include "packet.bpf.h"

#define L7_PACKET_OTHERHOST 3 // for another's hardware address: no IP stack reads it
#define L7_PACKET_LOOPBACK 5  // the pod's own multicast, looped back; it has no Ethernet header

int l7_gate_in(struct __sk_buff *skb) {
    u32 id = l7_this_endpoint();
    struct l7_endpoint *ep = l7_endpoints.lookup(&id);
    if (ep && (!(ep->flags & (L7_F_EGRESS | L7_F_INGRESS)) || (ep->flags & L7_F_STOPPED)))
        return L7_TC_PASS;
    if (skb->pkt_type == L7_PACKET_OTHERHOST || skb->pkt_type == L7_PACKET_LOOPBACK)
        return L7_TC_PASS;
    struct l7_segment segment = {};
    int kind = l7_parse(skb, &segment);
    if (kind != L7_DATAGRAM && kind != L7_REQUEST && kind != L7_UNREADABLE)
        return L7_TC_PASS;
    if (!ep) {
        l7_count(L7_R_NO_ENDPOINT);
        return L7_TC_DROP;
    }
    u32 identity = 0;
    struct l7_decision said = {.answer = L7_DENY, .reason = L7_R_UNREADABLE, .flags = 0};
    if (kind == L7_DATAGRAM) {
        said = l7_judge_in(ep, &segment.src, segment.protocol, segment.sport_be, segment.dport_be, &identity);
    } else if (!l7_enforced(ep, L7_INGRESS)) {
        return L7_TC_PASS;
    } else if (kind == L7_REQUEST) {
        identity = l7_identity_from(&segment.src);
        said = l7_decide_datagram(ep, L7_INGRESS, identity, segment.protocol, 0);
    }
    // The pod's own packets to itself go over lo. IPv6 does not filter these, and l7_sk_lookup takes them for the pod's.
    if (l7_enforced(ep, L7_INGRESS) && kind != L7_UNREADABLE &&
        (l7_is_own(ep, &segment.src) || l7_is_loopback(&segment.src))) {
        said.answer = L7_DENY;
        said.reason = L7_R_FORGED_SOURCE;
    }
    if (said.answer == L7_ALLOW && !(said.flags & L7_V_AUDIT))
        return L7_TC_PASS;
    struct l7_event event = {};
    u8 reason = said.answer == L7_ALLOW ? L7_R_WOULD_DENY : said.reason;
    l7_event_of(&event, id, L7_INGRESS, identity, &segment, reason);
    l7_report(&event, L7_RECORDS_INGRESS);
    return said.answer == L7_ALLOW ? L7_TC_PASS : L7_TC_DROP;
}
