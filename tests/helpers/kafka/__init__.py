"""Real Kafka clients as small programs: each takes work as JSON, does it with one client library, prints one line."""
