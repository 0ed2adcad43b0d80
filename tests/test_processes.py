"""The rest of a process's output after lines were read."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.processes import rest_of

SPEAKS = """
import sys, time
print("1\\n2", flush=True)  # one write, so that both are read at once
time.sleep(float(sys.argv[1]))
print("3")
print("a sentence", file=sys.stderr)
"""


def speaking(seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SPEAKS, str(seconds)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=-1
    )


def test_lines_that_were_read_ahead_are_in_the_rest() -> None:
    process = speaking(0.1)
    assert process.stdout is not None and process.stdout.readline() == "1\n"
    assert rest_of(process) == ("2\n3\n", "a sentence\n")
    assert process.returncode == 0


def test_a_process_that_takes_too_long_is_killed() -> None:
    process = speaking(60)
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        rest_of(process, 0.2)
    assert time.monotonic() - began < 30 and process.wait() == -9
