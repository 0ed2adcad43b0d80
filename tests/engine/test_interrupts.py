"""A caught Ctrl-C does not change the exit code, wherever it arrived."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

MODULE = """
import sys
from engine.interrupts import forget_interrupt
try:
    exec("raise KeyboardInterrupt")  # as in a library that generates code
except KeyboardInterrupt:
    if "forget" in sys.argv:
        forget_interrupt()
sys.exit(130)
"""


def test_an_interrupt_inside_generated_code_keeps_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(MODULE)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}

    def exit_code(*arguments: str) -> int:
        command = [sys.executable, "-m", "interrupted", *arguments]
        return subprocess.run(command, env=environment, check=False).returncode

    assert exit_code() == -signal.SIGINT, "CPython no longer does this: remove the module"
    assert exit_code("forget") == 130
