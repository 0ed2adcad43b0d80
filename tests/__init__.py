"""Tests. This file is imported before any test imports PyTorch."""

import os

# The networks here are tiny and parallel workers share the processors. OpenMP threads that wait by
# spinning cost ten times the test's own time there.
os.environ["OMP_WAIT_POLICY"] = "passive"
