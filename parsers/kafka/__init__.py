"""The Kafka protocol, sans-io: frames in, trees out, and back."""
