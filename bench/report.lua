-- wrk's numbers as one JSON line behind "@@"; latencies in microseconds
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '@@{"requests":%d,"duration_us":%d,"bytes":%d,"p50_us":%.1f,"p99_us":%.1f,"p999_us":%.1f,' ..
    '"socket_errors":%d,"status_errors":%d}\n',
    summary.requests, summary.duration, summary.bytes,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    errors.connect + errors.read + errors.write + errors.timeout, errors.status))
end
