"""For all tests: Ctrl-C works in the programs that are tested, however this run was started, and hypothesis has its
profiles: `fast` for every run, `deep` for a night (TULLE_HYPOTHESIS=deep, which `./dev test --deep` sets).

A shell starts background jobs with SIGINT ignored, which every child would inherit; a handler of our own is reset to
the default in children (signal(7), execve).
"""

import os
import signal

from hypothesis import HealthCheck, settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

settings.register_profile(
    "fast", max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("deep", max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("TULLE_HYPOTHESIS", "fast"))
