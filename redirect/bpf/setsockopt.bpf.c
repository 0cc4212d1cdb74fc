// cgroup/setsockopt, attached to the cgroup of each pod whose egress is enforced (never above: it runs on every
// setsockopt below where it is attached, and a pod that no policy selects must not pay for it).
//
// SO_MARK. The connect hook writes the steer mark, but TCP_FASTOPEN_CONNECT sends no SYN until the first write, and a
// SYN that met a full backlog is sent again after a second. CAP_NET_RAW, which containers have by default, is enough to
// set the mark to 0 in between: the connection then leaves past the proxy (seen). It is refused in every state, not
// only after connect: the hook and the option do not run under one lock, so a check of the state could be outrun.
// Nothing of worth is lost: a connect writes the mark anyway. (SO_BINDTODEVICE needs no guard: redirect/plumbing.py,
// pref 12.)
//
// Packet sockets that would leave past a hook on eth0, and AF_XDP, are refused too.
#include "report.bpf.h"

#define L7_SOL_PACKET 263
#define L7_PACKET_QDISC_BYPASS 20
#define L7_SOL_XDP 283

int l7_setsockopt(struct bpf_sockopt *ctx) {
    bool mark = ctx->level == L7_SOL_SOCKET && ctx->optname == L7_SO_MARK;
    bool packet = ctx->level == L7_SOL_XDP || (ctx->level == L7_SOL_PACKET && ctx->optname == L7_PACKET_QDISC_BYPASS);
    if (!mark && !packet) {
        if (ctx->optlen > 4096)
            ctx->optlen = 0; // the kernel showed us one page; 0 lets the original go through whole
        return 1;
    }
    l7_count(mark ? L7_R_MARK_CHANGE : L7_R_RAW_PACKET);
    return 0; // EPERM
}
