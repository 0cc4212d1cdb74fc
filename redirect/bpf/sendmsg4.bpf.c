// cgroup/sendmsg4: what the pods send over UDP sockets that are not connected. Also for sendto on an IPv6 socket to
// ::ffff:a.b.c.d.
#include "connect.bpf.h"

int l7_sendmsg4(struct bpf_sock_addr *ctx) {
    struct l7_addr dst;
    l7_addr_set4(&dst, ctx->user_ip4);
    return l7_connect(ctx, &dst);
}
