"""Read what a process says, first by lines and then the rest.

`Popen.communicate` reads below Python's buffers: lines that arrived together with one that was read
before are lost.
"""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import IO, AnyStr


def rest_of(process: subprocess.Popen[AnyStr], seconds: float = 300) -> tuple[AnyStr, AnyStr]:
    """The rest of standard output and standard error, which are pipes, when the process has ended.

    A process that takes longer is killed, and TimeoutExpired raised.
    """

    def read(stream: IO[AnyStr] | None) -> AnyStr:
        assert stream is not None
        with stream:
            return stream.read()

    with ThreadPoolExecutor(2) as pool:
        out, err = pool.submit(read, process.stdout), pool.submit(read, process.stderr)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return out.result(), err.result()
