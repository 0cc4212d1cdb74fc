"""For all tests: Ctrl-C works in the programs that are tested, however this run was started.

A shell starts background jobs with SIGINT ignored, which every child would inherit; a handler of our own is reset to
the default in children (signal(7), execve).
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
