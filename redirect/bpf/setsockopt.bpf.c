// cgroup/setsockopt, attached to the cgroup of each pod of ours, never above: it runs on every setsockopt below the
// cgroup where it is attached, and a pod that no policy selects must not pay for it.
//
// The connect hook writes the steer mark, but TCP_FASTOPEN_CONNECT sends no SYN until the first write, and a SYN that
// met a full backlog is sent again after a second. CAP_NET_RAW, which containers have by default, is enough to set the
// mark to 0 in between: the connection then leaves past the proxy (seen). So SO_MARK is refused on stream sockets of a
// pod whose egress is enforced, in every state and not only after connect: this hook and the option itself do not run
// under one lock, so a check of the state could be outrun. Nothing of worth is lost, as a connect writes the mark
// anyway. (SO_BINDTODEVICE needs no guard: redirect/plumbing.py, pref 12.)
#include "report.bpf.h"

#define L7_SETSOCKOPT_REFUSE 0 // EPERM
#define L7_SETSOCKOPT_PASS 1
#define L7_PAGE 4096

#define L7_SOL_PACKET 263
#define L7_PACKET_QDISC_BYPASS 20
#define L7_SOL_XDP 283

int l7_setsockopt(struct bpf_sockopt *ctx) {
    bool mark = ctx->level == L7_SOL_SOCKET && ctx->optname == L7_SO_MARK;
    bool bypass = ctx->level == L7_SOL_XDP || (ctx->level == L7_SOL_PACKET && ctx->optname == L7_PACKET_QDISC_BYPASS);
    u64 cookie;
    u32 *id = 0;
    if (mark || bypass) {
        cookie = bpf_get_netns_cookie(ctx);
        id = l7_netns.lookup(&cookie);
    }
    struct l7_endpoint *ep = id ? l7_endpoints.lookup(id) : 0;
    bool enforced = id && (!ep || ((ep->flags & L7_F_EGRESS) && !(ep->flags & (L7_F_STOPPED | L7_F_WATCH_EGRESS))));
    // UDP is not steered, so its marks are the pod's own business.
    if (!enforced || (mark && ctx->sk && ctx->sk->type != L7_SOCK_STREAM)) {
        // The kernel shows a program one page of a longer value and takes that for the whole, unless told otherwise.
        if (ctx->optlen > L7_PAGE)
            ctx->optlen = 0;
        return L7_SETSOCKOPT_PASS;
    }
    l7_count(mark ? L7_R_MARK_CHANGE : L7_R_BYPASS);
    return L7_SETSOCKOPT_REFUSE;
}
