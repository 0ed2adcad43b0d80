"""Two API keys, one of which floods the server; new keys; refining a mask: each with its bound."""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.schema import Measurement, rounded
from benchmarks.serving_client import Server, photo, start_server
from engine.errors import DiffEditError

KEYS = {name: f"the-key-of-{name}-of-some-length" for name in ("quiet", "flood", "new")}
PROMPTS = {"prompt": "a red cube", "source_prompt": "a black cube"}
EDIT = {**PROMPTS, "preset": "paper", "num_inference_steps": "10", "num_maps_per_mask": "2"}
EDITS, REFINEMENTS, WARM_UPS, FLOODERS = 40, 200, 20, 32
FLOODED = "edit while another key floods, p95, of the p95 alone"
RELOAD, REFINE = "new key file in use after it changed", "refined mask, p95"
CLEANINGS = ("none", "edges")
"""How the refined masks are cleaned; "edges" is the slowest."""
BOUNDS = {
    FLOODED: ("<=", 2.0),
    RELOAD: ("<=", 1000.0),
    **{f"{REFINE} (cleaning {cleaning})": ("<=", 20.0) for cleaning in CLEANINGS},
}


@contextmanager
def start_with_keys(model: Path, call_ms: float) -> Iterator[tuple[Server, Path]]:
    """A server with two API keys on fake networks, and its key file."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        write_keys(keys, "quiet", "flood")
        settings = {"API_KEYS": str(keys), "MAX_QUEUE_SECONDS": "60"}
        with start_server(model, call_ms, settings=settings) as server:
            yield server, keys


def write_keys(file: Path, *names: str) -> None:
    """Replace the key file at once."""
    new = file.with_name("new")
    new.write_text("".join(f"{name} {KEYS[name]}\n" for name in names))
    os.replace(new, file)


def keyed(model: Path, call_ms: float) -> Iterator[Measurement]:
    """Every measurement of this module."""
    with start_with_keys(model, call_ms) as (server, keys):
        yield from flooded(server)
        yield reloaded(server, keys)
        yield from refined(server)


def flooded(server: Server) -> Iterator[Measurement]:
    """One key sends edits one after another, alone and while another sends 32 at a time."""
    alone = _latencies(server)
    yield Measurement.of("edit of a key alone", alone, "ms")
    done = threading.Event()

    def flood(number: int) -> None:
        for seed in itertools.count(number, FLOODERS):
            if done.is_set():
                return
            server.post(photo(128, "jpeg"), {**EDIT, "seed": str(seed)}, key=KEYS["flood"])

    with ThreadPoolExecutor(FLOODERS) as pool:
        for number in range(FLOODERS):
            pool.submit(flood, number)
        try:
            time.sleep(1)  # until the queue is full
            crowded = _latencies(server)
        finally:
            done.set()
    yield Measurement.of("edit of a key while another floods", crowded, "ms")
    ratio = float(np.percentile(crowded, 95) / np.percentile(alone, 95))
    yield Measurement(FLOODED, rounded(ratio), repeats=EDITS, statistic="p95")


def _latencies(server: Server) -> list[float]:
    """Milliseconds of edits of the quiet key, one after another."""
    waited, image = [], photo(128, "jpeg")
    for seed in range(EDITS):
        began = time.perf_counter()
        answer = server.post(image, {**EDIT, "seed": str(seed)}, key=KEYS["quiet"])
        waited.append(1000 * (time.perf_counter() - began))
        if answer.status_code != 200:
            raise DiffEditError(f"An edit of the quiet key was answered {answer.status_code}.")
    return waited


def reloaded(server: Server, keys: Path) -> Measurement:
    """Milliseconds from a change of the key file until a key that was removed is refused.

    It polls with the removed key, because requests with unknown keys are slowed down. The first
    refused request counts from when it was sent.
    """
    write_keys(keys, "quiet", "new")
    began = time.perf_counter()
    while True:
        sent = time.perf_counter()
        if server.http.get("/v1/models", headers=bearer("flood")).status_code == 401:
            break
        if sent - began > 60:
            raise DiffEditError("The new key file was not in use after 60 s.")
        time.sleep(0.01)
    if server.http.get("/v1/models", headers=bearer("new")).status_code != 200:
        raise DiffEditError("The new key is not known, although the removed one is refused.")
    return Measurement(RELOAD, rounded(1000 * (sent - began)), "ms")


def refined(server: Server) -> Iterator[Measurement]:
    """Milliseconds of POST /v1/masks/{id}, each with a new threshold."""
    image = photo(512, "jpeg")
    found = server.post(image, EDIT, "masks", key=KEYS["quiet"]).json()["mask_id"]
    for cleaning in CLEANINGS:
        waited = []
        for number in range(REFINEMENTS + WARM_UPS):
            threshold = f"{0.9 * number / (REFINEMENTS + WARM_UPS):.4f}"
            fields = {"threshold": threshold, "cleaning": cleaning}
            began = time.perf_counter()
            path = f"/v1/masks/{found}"
            answer = server.http.post(path, data=fields, headers=bearer("quiet"))
            waited.append(1000 * (time.perf_counter() - began))
            if answer.status_code != 200:
                raise DiffEditError(f"A refinement was answered {answer.status_code}.")
        p95 = rounded(float(np.percentile(waited[WARM_UPS:], 95)))
        labels = {"cleaning": cleaning}
        yield Measurement(REFINE, p95, "ms", labels, repeats=REFINEMENTS, statistic="p95")


def bearer(name: str) -> Mapping[str, str]:
    """The header of a key."""
    return {"Authorization": f"Bearer {KEYS[name]}"}
