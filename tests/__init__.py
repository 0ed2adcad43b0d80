"""Tests. This file is imported before any test imports PyTorch."""

import os
import signal

# The networks here are tiny and parallel workers share the processors. OpenMP threads that wait by
# spinning cost ten times the test's own time there.
os.environ["OMP_WAIT_POLICY"] = "passive"

# A shell ignores SIGINT in its background jobs, and their children inherit that. Tests of Ctrl-C
# must not depend on how pytest was started.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
