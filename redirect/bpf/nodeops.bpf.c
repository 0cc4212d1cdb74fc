// sock_ops at the root of cgroup v2, beside the one of each pod (sockops.bpf.c): remembers the connections that processes
// of this node open, so that l7_sk_lookup can tell them from what was masqueraded to the node's address.
//
// BPF_SOCK_OPS_TCP_CONNECT_CB runs before the first SYN is sent, when both ends are chosen: the pod sees the very same
// 4-tuple, unless the node translates it on the way (a probe of a service's address), and then it is judged as world.
// A process that is in a pod's netns is none of the node's, whatever its cgroup.
#include "decide.bpf.h"

#define L7_AF_INET 2

int l7_nodeops(struct bpf_sock_ops *ctx) {
    if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB)
        return 1; // ctx->reply stays as it is: the kernel's own values
    u32 zero = 0;
    struct l7_node *node = l7_nodes.lookup(&zero);
    if (!node || !node->cookie || bpf_get_netns_cookie(ctx) != node->cookie)
        return 1;
    struct l7_tuple key = {};
    // No branch around these reads (l7_sk_lookup says why), and volatile, or clang 14 reads two words at once, which the
    // verifier (seen: 6.18) refuses. An IPv6 socket that goes to ::ffff:a.b.c.d has that form here.
    volatile struct bpf_sock_ops *ops = ctx;
    key.src.word_be[0] = ops->local_ip6[0];
    key.src.word_be[1] = ops->local_ip6[1];
    key.src.word_be[2] = ops->local_ip6[2];
    key.src.word_be[3] = ops->local_ip6[3];
    key.dst.word_be[0] = ops->remote_ip6[0];
    key.dst.word_be[1] = ops->remote_ip6[1];
    key.dst.word_be[2] = ops->remote_ip6[2];
    key.dst.word_be[3] = ops->remote_ip6[3];
    u32 src4 = ctx->local_ip4, dst4 = ctx->remote_ip4;
    if (ctx->family == L7_AF_INET) {
        l7_addr_set4(&key.src, src4);
        l7_addr_set4(&key.dst, dst4);
    }
    key.sport = ctx->local_port;               // machine byte order already
    key.dport = bpf_ntohl(ctx->remote_port);   // this one is not
    u64 now = bpf_ktime_get_ns();
    l7_opened.update(&key, &now);
    return 1;
}
