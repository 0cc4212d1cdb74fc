"""Hypothesis profiles: `fast` for every run, `deep` for a night (TULLE_HYPOTHESIS=deep)."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fast", max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("deep", max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("TULLE_HYPOTHESIS", "fast"))
