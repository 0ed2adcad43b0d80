"""Tests. This file is imported before any test imports PyTorch."""

import os

# The networks here are tiny and the processors are shared by parallel workers. Threads of OpenMP that
# wait by spinning then cost ten times the test's own time.
os.environ["OMP_WAIT_POLICY"] = "passive"
