// The maps, one set per node, shared by every program. Names are cut at 15 characters by the kernel.
#pragma once

#include "types.bpf.h"

// Which netns is a local pod of ours: the one look-up that every other connect on the machine pays. NO_PREALLOC here
// and below: an element of a preallocated hash is used again while a program may still read it.
BPF_F_TABLE("hash", u64, u32, l7_netns, L7_MAX_ENDPOINTS, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", u32, struct l7_endpoint, l7_endpoints, L7_MAX_ENDPOINTS, BPF_F_NO_PREALLOC);
BPF_F_TABLE("lpm_trie", struct l7_verdict_key, struct l7_verdict, l7_verdicts, 262144, BPF_F_NO_PREALLOC);
BPF_F_TABLE("lpm_trie", struct l7_identity_key, u32, l7_identities, 262144, BPF_F_NO_PREALLOC);
// Index: ((endpoint * 2 + direction) * 2 + (0 IPv4 | 1 IPv6)) * L7_SLOTS + worker's slot. A closed listener leaves by
// itself, which is what makes a dead worker fail closed.
BPF_TABLE("sockmap", u32, int, l7_listeners, L7_MAX_ENDPOINTS * 2 * 2 * L7_SLOTS);
BPF_F_TABLE("hash", u64, u8, l7_own_cgroups, 64, BPF_F_NO_PREALLOC);
BPF_TABLE("lru_hash", struct l7_seen_key, struct l7_seen, l7_seen, 8192);
BPF_F_TABLE("hash", struct l7_service_key, struct l7_backend, l7_services, 16384, BPF_F_NO_PREALLOC);
BPF_TABLE("array", u32, struct l7_node, l7_nodes, 1);
BPF_TABLE("lru_hash", struct l7_tuple, u64, l7_opened, 8192);
BPF_TABLE("lru_hash", struct l7_flow_key, struct l7_flow, l7_flows, 65536);
BPF_RINGBUF_OUTPUT(l7_events, 64);
BPF_TABLE("percpu_array", u32, u64, l7_counters, L7_R_MAX);
// Not 0 while l7_gate on this CPU looks a connection up: l7_sk_lookup then says that there is none, and counts nothing.
BPF_TABLE("percpu_array", u32, u32, l7_asking, 1);
