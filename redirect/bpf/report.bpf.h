// Counting and reporting refusals, and what passed but is worth a record.
#pragma once

#include "decide.bpf.h"

#define L7_WINDOW_NS 10000000000ULL // 10 s
// A steering program sees every stray segment and no flags, so it reports a 4-tuple once per window. A connect is a
// decision each time, but the client's port is not known yet: a loop of connects must not bury the reader.
#define L7_RECORDS_INGRESS 1
#define L7_RECORDS_EGRESS 20

static __always_inline void l7_count(u32 code) {
    u64 *count = l7_counters.lookup(&code);
    if (count)
        *count += 1; // per CPU
}

// Count it and report it, unless its 4-tuple had its records in this window.
static __always_inline void l7_report(struct l7_event *event, u32 limit) {
    l7_count(event->reason);
    u64 now = bpf_ktime_get_ns();
    struct l7_seen_key key = {};
    key.src = event->src;
    key.dst = event->dst;
    key.sport = event->sport;
    key.dport = event->dport;
    u32 passed = event->reason == L7_R_WOULD_DENY || event->reason == L7_R_FAIL_OPEN || event->reason == L7_R_NODE_PROBE;
    key.kind = (u32)event->protocol << 16 | passed << 15 | (event->endpoint * 2 + event->direction);
    struct l7_seen *seen = l7_seen.lookup(&key);
    u64 suppressed = 0;
    if (seen && now - seen->since_ns < L7_WINDOW_NS) {
        if (seen->records >= limit) {
            __sync_fetch_and_add(&seen->suppressed, 1);
            l7_count(L7_R_SUPPRESSED);
            return;
        }
        __sync_fetch_and_add(&seen->records, 1);
    } else {
        struct l7_seen fresh = {};
        if (seen)
            suppressed = seen->suppressed;
        fresh.since_ns = now;
        fresh.records = 1;
        l7_seen.update(&key, &fresh);
    }
    event->time_ns = now;
    event->suppressed = suppressed;
    if (l7_events.ringbuf_output(event, sizeof(*event), 0) != 0)
        l7_count(L7_R_EVENT_LOST); // the reader is told by the counter and writes a lost-records record
}
