"""Run something in a forked child, and end the child if it hangs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable

SECONDS = 20.0


def in_child(call: Callable[[], object]) -> str:
    """What `call` returns in a forked child, or the type and the message of what it raises."""
    here, there = multiprocessing.Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: forking with threads
        child = os.fork()
    if child == 0:
        try:
            there.send(str(call()))
        except BaseException as error:
            there.send(f"{type(error).__name__}: {error}")
        finally:
            os._exit(0)
    try:
        return str(here.recv()) if here.poll(SECONDS) else "hangs"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        here.close()
        there.close()
