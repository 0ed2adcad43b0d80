"""The process of the fake server: its networks leave the processors to the server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import torch
from demo.fake_server import open_fake, open_on_one_thread
found = []
for opened in (open_fake, open_on_one_thread):
    with opened(Path(sys.argv[1])) as pipeline:
        with ThreadPoolExecutor(1) as engine:  # as the engine's thread, which starts afterwards
            found.append(engine.submit(torch.get_num_threads).result())
print(*found)
"""


def test_fake_networks_compute_in_one_thread(tiny: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tiny)]
    two = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, cwd=ROOT, env=two, text=True, capture_output=True, check=True)
    assert done.stdout.split() == ["2", "1"]
