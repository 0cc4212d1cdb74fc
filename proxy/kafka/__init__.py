"""Kafka on one flow: what each API asks of policy, what a denied client is told, and how both travel."""
