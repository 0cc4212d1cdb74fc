// cgroup/connect6: IPv6 connects of the pods. ::ffff:a.b.c.d comes here and only here, leaves as IPv4, and is judged as
// IPv4: it already has the form in which the maps keep IPv4.
#include "connect.bpf.h"

int l7_connect6(struct bpf_sock_addr *ctx) {
    struct l7_addr dst;
    dst.word_be[0] = ctx->user_ip6[0];
    dst.word_be[1] = ctx->user_ip6[1];
    dst.word_be[2] = ctx->user_ip6[2];
    dst.word_be[3] = ctx->user_ip6[3];
    return l7_connect(ctx, &dst);
}
