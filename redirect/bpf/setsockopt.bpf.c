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

int l7_setsockopt(struct bpf_sockopt *ctx) {
    if (ctx->level != L7_SOL_SOCKET || ctx->optname != L7_SO_MARK) {
        // The kernel shows a program one page of a longer value and takes that for the whole, unless told otherwise.
        if (ctx->optlen > L7_PAGE)
            ctx->optlen = 0;
        return L7_SETSOCKOPT_PASS;
    }
    u64 cookie = bpf_get_netns_cookie(ctx);
    u32 *id = l7_netns.lookup(&cookie);
    if (!id)
        return L7_SETSOCKOPT_PASS;
    struct l7_endpoint *ep = l7_endpoints.lookup(id);
    if (ep && (!(ep->flags & L7_F_EGRESS) || (ep->flags & L7_F_STOPPED)))
        return L7_SETSOCKOPT_PASS;
    // UDP is not steered, so its marks are the pod's own business.
    if (ctx->sk && ctx->sk->type != L7_SOCK_STREAM)
        return L7_SETSOCKOPT_PASS;
    l7_count(L7_R_MARK_CHANGE);
    return L7_SETSOCKOPT_REFUSE;
}
