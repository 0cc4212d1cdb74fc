// cgroup/connect4: IPv4 connects of the pods.
#include "connect.bpf.h"

int l7_connect4(struct bpf_sock_addr *ctx) {
    struct l7_addr dst;
    l7_addr_set4(&dst, ctx->user_ip4);
    return l7_connect(ctx, &dst);
}
