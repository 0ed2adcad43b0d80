"""Choose the profiles that a build verifies, and act on the results: fall back, note, or retry.

PyTorch is not imported, so that a build with nothing to do is quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from typing import Literal

from engine.manifest import Check, Entry, Format
from engine.products import PRODUCTS

Verify = Literal["default", "all", "none"]
"""default: all profiles on a GPU, the smallest one on a CPU, where the others take minutes."""

BY_DEFAULT = "only the smallest profile is checked by default on a CPU; use --verify all"
BY_REQUEST = "verification was turned off"
NOT_HERE = "it cannot run on the machine that built it: "
NO_MEMORY = "it needs more memory than this machine has free"


class TooImprecise(Exception):
    """A network's results are wrong in a precision; the message has the error."""


@dataclass(frozen=True)
class Plan:
    """The profiles to verify now.

    Attributes:
        run: the batch sizes to run.
        entry: the entry with a check for each of its other batch sizes.
    """

    run: tuple[int, ...]
    entry: Entry


def plan(entry: Entry, verify: Verify) -> Plan:
    """Decide which batch sizes of `entry` are verified now.

    A batch size is verified once. If it was not run for a reason that may no longer apply (another
    machine, another option, other free memory), it is tried again. Failures stay recorded.
    """
    backend = "onnxruntime" if entry.format == "onnx" else entry.format
    sizes = entry.spec.batch_sizes
    own = {c.batch: c for c in entry.own_checks if c.batch in sizes}
    wanted, reason = _wanted(entry, verify)
    run = tuple(b for b in sizes if b in wanted and (b not in own or _may_change(own[b])))
    skipped = [
        own.get(b) or Check(backend, b, "not run", reason=reason) for b in sizes if b not in run
    ]
    others = [c for c in entry.checks if c.backend == "torch"]
    return Plan(run, with_checks(entry, [*others, *skipped]))


def with_checks(entry: Entry, checks: Sequence[Check]) -> Entry:
    """Return `entry` with these checks: PyTorch's first, then by batch size."""
    ordered = sorted(checks, key=lambda c: (c.backend != "torch", c.batch))
    return replace(entry, checks=tuple(ordered))


def _wanted(entry: Entry, verify: Verify) -> tuple[tuple[int, ...], str]:
    """The batch sizes to verify, and why the others are not."""
    if verify == "none":
        return (), BY_REQUEST
    reason = obstacle(entry.format)
    if reason:
        return (), NOT_HERE + reason
    sizes = entry.spec.batch_sizes
    if verify == "all" or runs_on_gpu(entry.format):
        return sizes, ""
    return sizes[:1], BY_DEFAULT


def _may_change(check: Check) -> bool:
    reasons = (BY_DEFAULT, BY_REQUEST, NOT_HERE, NO_MEMORY)
    return check.status == "not run" and check.reason.startswith(reasons)


def obstacle(kind: Format) -> str:
    """Why files of this format cannot run on this machine, or ""."""
    product = PRODUCTS[kind]
    if not product.installed:
        return f"{product.title} is not installed"
    if kind != "onnx" and not _has_gpu():
        return "there is no NVIDIA GPU"
    return ""


def runs_on_gpu(kind: Format) -> bool:
    """Whether files of this format are verified on a GPU here, if they can run."""
    if kind != "onnx":
        return True
    try:
        distribution("onnxruntime-gpu")
    except PackageNotFoundError:
        return False
    return _has_gpu()


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def judge(checks: Sequence[Check]) -> list[str]:
    """Raise TooImprecise for the first wrong result; otherwise return notes for the user.

    A runtime error is not caused by the precision, so there is no fall-back to fp32.
    """
    notes = []
    for check in checks:
        where = f"{check.backend}, batch {check.batch}"
        if check.status == "too imprecise":
            raise TooImprecise(f"{where}: {check.reason}")
        if check.status == "failed":
            notes.append(f"the verification failed on {where}: {check.reason}")
    if all(check.status == "not run" for check in checks):
        notes.append(f"not verified, because {checks[0].reason}")
    return notes
