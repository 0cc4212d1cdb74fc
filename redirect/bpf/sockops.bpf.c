// sock_ops, attached to the cgroup of each pod of ours, never above: it keeps the app's end of our ingress leg on lo.
//
// The leg has the client's address and a port of our choice, so the 4-tuple of the app's end (web:80 <- client:P) is
// one that the real client can have too, over eth0. An app's socket is bound to no device and would match both:
// segments of a live connection of that client went to it, and the connection hung (seen); or the client writes there
// blindly, past us. Bound to lo, it matches what comes over lo alone, and our downstreams are bound to eth0 by their
// listener. The handshake before this, over lo and within one softirq, is all that remains.
//
// The mark tells: the end inherits it from the leg's SYN (tcp_fwmark_accept). An app that forges it on its listener
// loses its own clients.
#include "report.bpf.h"

#define L7_SO_BINDTODEVICE 25

int l7_sockops(struct bpf_sock_ops *ctx) {
    if (ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
        return 1; // ctx->reply stays as it is: the kernel's own values
    struct bpf_sock *sk = ctx->sk;
    if (!sk || sk->mark != L7_LEG_MARK || sk->bound_dev_if)
        return 1;
    char lo[] = "lo";
    if (bpf_setsockopt(ctx, L7_SOL_SOCKET, L7_SO_BINDTODEVICE, lo, sizeof(lo)) != 0)
        l7_count(L7_R_BIND_FAILED); // the connection goes on as it would without this program
    return 1;
}
