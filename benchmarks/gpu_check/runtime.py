"""Check the runtime on a GPU: sharing calls, cancelling, and no host waits inside a stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu_check.setup import Found, Setup
from benchmarks.host_waits import host_waits
from benchmarks.networks import DENOISER, CountingNetworks
from benchmarks.schema import Check, Measurement
from benchmarks.workload import Workload, whole
from diffedit import DiffEditPipeline, EditRequest
from engine.errors import Cancelled

CLIENTS = 8
CANCELLED = 10
PATIENCE = 120.0
"""Seconds to wait for an edit to begin."""


def sharing(setup: Setup) -> Found:
    """Eight edits that arrive one after another, and one that arrives during seven others."""
    with setup.pipeline() as pipe:
        requests = distinct(setup.load, CLIENTS)
        _together(pipe, requests, 0)  # warms up every batch size
        began = time.perf_counter()
        one = _rows_per_call(pipe, lambda: _together(pipe, requests[:1], 0))
        pause = (time.perf_counter() - began) / CLIENTS
        staggered, middle = [], []
        for _ in range(setup.repeats):
            staggered.append(_rows_per_call(pipe, lambda: _together(pipe, requests, pause)))
            middle.append(_amid_others(pipe, requests))
        description = pipe.describe()
    rows = [
        Measurement.of("rows a call", values, "rows", {"edits": name})
        for name, values in (
            ("one", [one]),
            (f"{CLIENTS}, one after another", staggered),
            (f"one amid {CLIENTS - 1} others", middle),
        )
    ]
    found = rows[-1].value or 0.0
    target = setup.target(f"rows a call amid seven others: {found:.1f} (6 or more)", found >= 6)
    return Found(tuple(rows), target, configuration=description)


def cancel(setup: Setup) -> Found:
    """Long edits, each cancelled while it runs: how long it takes, and calls begun since."""
    late, calls = [], []
    long = replace(setup.load, steps=1000, strength=1.0)
    with setup.pipeline() as pipe:
        request = long.request(method="encode-decode")
        for _ in range(CANCELLED):
            started = threading.Event()
            handle = pipe.submit(request, callback=lambda *_, event=started: event.set())
            assert started.wait(PATIENCE), "the edit has not begun"
            before, began = len(_sizes(pipe)), time.perf_counter()
            handle.cancel()
            with suppress(Cancelled):
                handle.result()
            late.append(1e3 * (time.perf_counter() - began))
            calls.append(float(len(_sizes(pipe)) - before))
        description = pipe.describe()
    rows = (
        Measurement.of("until it is cancelled", late, "ms"),
        Measurement.of("calls begun after the cancel", calls, "calls"),
    )
    check = Check(f"calls begun after a cancel: {max(calls):g} (2 or less)", max(calls) <= 2)
    return Found(rows, (check,), configuration=description)


def syncs(setup: Setup, set_mode: Callable[[str], None] | None = None) -> Found:
    """Reads of device values by the host: none inside a stage, and how many in a whole edit."""
    cuda = setup.device.startswith("cuda")
    guard = StageGuard(set_mode or (torch.cuda.set_sync_debug_mode if cuda else lambda mode: None))
    request = setup.load.request()
    with setup.pipeline() as pipe:
        networks = pipe.networks
        assert isinstance(networks, CountingNetworks)
        for _ in range(2):
            networks.calls[DENOISER].clear()
            pipe.cache_clear()
            whole(pipe.submit(request).result())  # warms up, then shows the calls of each stage
        guard.plan = list(_sizes(pipe))
        networks.calls[DENOISER].clear()
        networks.on_call = guard.after
        pipe.cache_clear()
        try:
            pipe.submit(request).result()
            problem = ""
        except RuntimeError as error:  # "called a synchronizing CUDA operation"
            problem = str(error).split("\n")[0]
        finally:
            networks.on_call = None
            guard.set_mode("default")
        pipe.cache_clear()
        waits = host_waits(pipe, request)
        description = pipe.describe()
    places = {"places": dict(waits.most_common(10))}
    count = Measurement("host waits an edit", waits.total(), statistic="one edit", extras=places)
    inside = Measurement("calls guarded", guard.guarded, statistic="count")
    text = f"no host wait inside a stage ({guard.guarded} of {len(guard.plan)} calls guarded)"
    checks = (Check(f"{text}{': ' * bool(problem)}{problem}", not problem),)
    return Found((count, inside), checks, configuration=description)


class StageGuard:
    """Makes a wait of the host an error between two calls of one stage.

    A stage is a run of denoiser calls with equal rows in `plan`, the calls of the same edit before.
    Between stages the host may read: the mask, and the last check.
    """

    def __init__(self, set_mode: Callable[[str], None]) -> None:
        self.set_mode, self.plan, self.guarded = set_mode, [0], 0

    def after(self, net: str, index: int) -> None:
        """Called after call `index` of a network was launched."""
        if net != DENOISER:
            return
        inside = index + 1 < len(self.plan) and self.plan[index] == self.plan[index + 1]
        self.guarded += inside
        self.set_mode("error" if inside else "default")


def distinct(load: Workload, count: int) -> list[EditRequest]:
    """Edits of different pictures, so that they do not share rows."""
    picture = np.asarray(load.image)
    return [
        replace(load.request(seed=i), image=Image.fromarray(np.roll(picture, 4 * i, axis=1)))
        for i in range(count)
    ]


def _together(pipe: DiffEditPipeline, requests: list[EditRequest], pause: float) -> None:
    """Submit edits one after another, and wait for all."""
    pipe.cache_clear()
    handles = []
    for request in requests:
        handles.append(pipe.submit(request))
        time.sleep(pause)
    for handle in handles:
        whole(handle.result())


def _amid_others(pipe: DiffEditPipeline, requests: list[EditRequest]) -> float:
    """Rows a call from the arrival of the last edit until the others have finished."""
    pipe.cache_clear()
    half = threading.Event()

    def note(stage: str, done: int, total: int) -> None:
        if 2 * done >= total:
            half.set()

    others = [pipe.submit(request, callback=note) for request in requests[:-1]]
    assert half.wait(PATIENCE), "the edits have not come half way"
    last = []

    def arrive_and_wait() -> None:
        last.append(pipe.submit(requests[-1]))
        for handle in others:
            whole(handle.result())

    found = _rows_per_call(pipe, arrive_and_wait)
    whole(last[0].result())
    return found


def _rows_per_call(pipe: DiffEditPipeline, run: Callable[[], None]) -> float:
    """The denoiser's rows a call during `run`, without padding."""
    batcher = pipe.batcher
    rows, calls = batcher.rows[DENOISER], batcher.calls[DENOISER]
    run()
    return (batcher.rows[DENOISER] - rows) / max(1, batcher.calls[DENOISER] - calls)


def _sizes(pipe: DiffEditPipeline) -> list[int]:
    assert isinstance(pipe.networks, CountingNetworks)
    return pipe.networks.calls[DENOISER]
