"""What the benchmark says when it cannot measure."""


class BenchError(Exception):
    """One line for the person who started it, lower case, no full stop."""
