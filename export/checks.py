"""What the checks of a verification mean: fall back, note, or verify what is missing.

It imports no heavy package, so a build with nothing to do stays quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from engine.manifest import Check, Entry


class TooImprecise(Exception):
    """A network is wrong in a precision; the message says how."""


def judge(checks: Sequence[Check]) -> list[str]:
    """Raise TooImprecise for the first wrong result; otherwise return notes for the user.

    A runtime error says nothing about precision, so it does not cause a fall-back to fp32.
    """
    notes = []
    for check in checks:
        where = f"{check.backend}, batch {check.batch}"
        if check.status == "too imprecise":
            raise TooImprecise(f"{where}: {check.reason}")
        if check.status == "failed":
            notes.append(f"the verification failed on {where}: {check.reason}")
    if all(check.status == "not run" for check in checks):
        notes.append(f"not verified: {checks[0].reason}")
    return notes


def unchecked_profiles(entry: Entry) -> tuple[int, ...]:
    """The batch sizes of an entry that can be verified on this machine and were not yet."""
    if entry.format == "onnx":
        can_run, backend = find_spec("onnxruntime") is not None, "onnxruntime"
    else:
        from export.verify import runnable

        can_run, backend = runnable(entry.format), entry.format
    done = {check.batch for check in entry.checks if check.backend == backend}
    return tuple(b for b in entry.spec.batch_sizes if b not in done) if can_run else ()
