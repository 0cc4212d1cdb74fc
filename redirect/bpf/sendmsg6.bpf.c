// cgroup/sendmsg6: the same over IPv6.
#include "connect.bpf.h"

int l7_sendmsg6(struct bpf_sock_addr *ctx) {
    struct l7_addr dst;
    dst.word_be[0] = ctx->user_ip6[0];
    dst.word_be[1] = ctx->user_ip6[1];
    dst.word_be[2] = ctx->user_ip6[2];
    dst.word_be[3] = ctx->user_ip6[3];
    return l7_connect(ctx, &dst);
}
