"""`batch --ray`: a pool of Ray actors with one pipeline each, fed by Ray Data.

Every line is a block of its own, so that its outcome arrives as soon as it is known, and a lost
actor loses only the edits that it was running; Ray runs those again on a new one. An actor checks
and writes outputs with the code of the local batch (`batch_run`).
"""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
import ray.data

from diffedit.cli.batch_file import LineEdit
from diffedit.cli.batch_run import BatchOptions, Run, failure
from diffedit.cli.errors import UsageError, exit_code_of, say
from diffedit.cli.output_files import remove_temporary
from diffedit.cli.progress import Progress
from diffedit.cli.ray_options import Actors, RayOptions
from engine.errors import DiffEditError, ResourceError

OBJECT_STORE_BYTES = 128 * 1024**2
"""Shared memory of a Ray that this command starts; only lines and outcomes pass through it."""
MAX_BLOCKS = 10_000
"""Lines of larger files share blocks, because the driver keeps a record of each block."""
CONNECT_SECONDS = 10.0
"""Time to find out whether something listens at an address."""
ATTEMPTS = 4
"""How often an edit is started: if its actor is lost every time, the edit counts as the reason."""


@dataclass(frozen=True)
class Answer:
    """What an actor returns for one line.

    Attributes:
        notes: the backend, and warnings from loading the model.
        outcome: the JSON fields of the line.
        error: why the model could not be loaded; no line can be run then.
    """

    notes: tuple[str, ...]
    outcome: dict[str, Any] | None = None
    error: Exception | None = None


class Attempts:
    """Counts how often each line was started. An actor, because workers may be lost."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def start(self, number: int) -> int:
        """Count one more attempt of a line, and return the number of its attempts."""
        self._counts[number] += 1
        return self._counts[number]


@dataclass
class Worker:
    """One actor. Several threads call it, and their edits share the network calls of one pipeline.

    Attributes:
        options: of the batch.
        folder: where relative paths start from.
        attempts: the actor that counts attempts.
    """

    options: BatchOptions
    folder: str
    attempts: Any

    def __post_init__(self) -> None:
        """Load the model. An error is kept and returned with the first line."""
        self._error: Exception | None = None
        try:
            self._run = Run(self._open(), self.options)
        except Exception as error:
            self._error = _sendable(error)

    def _open(self) -> Any:
        from diffedit import DiffEditPipeline

        try:
            os.chdir(self.folder)
        except OSError as error:
            raise UsageError(
                f"The machine {os.uname().nodename} has no folder {self.folder} "
                f"({error.strerror}); with --ray every machine needs the same paths."
            ) from None
        return DiffEditPipeline.from_pretrained(**self.options.model.pipeline_arguments())

    @cached_property
    def _notes(self) -> tuple[str, ...]:
        pipeline = self._run.pipeline
        warnings = [f"warning: {warning}" for warning in pipeline.warnings]
        return (f"backend: {pipeline.describe()}", *warnings)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[bytes]]:
        """Run the one line of a batch."""
        (line,) = batch["line"]
        return {"answer": [pickle.dumps(self._answer(pickle.loads(line)))]}

    def _answer(self, edit: LineEdit) -> Answer:
        if self._error is not None:
            return Answer((), error=self._error)
        if ray.get(self.attempts.start.remote(edit.number)) > ATTEMPTS:
            return Answer(self._notes, failure(edit.number, _lost()))
        (outcome,) = self._run.outcomes([edit], 1)
        return Answer(self._notes, outcome)


def run_on_ray(
    edits: list[LineEdit], options: BatchOptions, ray_options: RayOptions, progress: Progress
) -> Generator[dict[str, Any], None, None]:
    """Run the edits on a cluster; yield their outcomes in the order in which they finish.

    Raises DiffEditError if there is no cluster, or a model that cannot be loaded.
    """
    progress.start_stage("looking at the model")
    options.model.source.open(options.model.model)  # reported here, not by every actor
    options = replace(options, prefix=secrets.token_hex(4))
    waiting = {edit.number: edit for edit in edits}
    try:
        progress.start_stage("starting Ray")
        with _cluster(ray_options):
            actors = _choose_actors(ray_options, len(edits), options.model.device)
            if not options.quiet:
                say(f"Ray: {_workers(actors)}")
            progress.start_stage("loading the model")
            for outcome in _outcomes(edits, options, actors):
                if waiting.pop(outcome["line"], None) is not None:
                    yield outcome
        yield from (failure(number, _lost()) for number in waiting)
    finally:
        for folder in {edit.out.parent for edit in edits}:
            remove_temporary(folder, options.prefix)


def _outcomes(
    edits: list[LineEdit], options: BatchOptions, actors: Actors
) -> Iterator[dict[str, Any]]:
    """Yield the outcomes, and print what is new in the actors' notes."""
    printed: set[str] = set()
    for answer in _answers(edits, options, actors):
        if answer.error is not None:
            raise answer.error
        for note in answer.notes:
            if note not in printed and not (options.quiet and note.startswith("backend: ")):
                say(note)
            printed.add(note)
        assert answer.outcome is not None
        yield answer.outcome


def _answers(edits: list[LineEdit], options: BatchOptions, actors: Actors) -> Iterator[Answer]:
    """Send every line to an actor, and yield the answers as they arrive."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.max_errored_blocks = -1  # the lines of a lost block are reported at the end
    attempts = ray.remote(Attempts).options(num_cpus=0, max_restarts=-1).remote()
    rows = [{"line": pickle.dumps(edit)} for edit in edits]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS))
    answers = dataset.map_batches(
        Worker,
        fn_constructor_args=(options, str(Path.cwd()), attempts),
        batch_size=1,
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(
            size=actors.count,
            max_tasks_in_flight_per_actor=options.in_flight,
            max_concurrent_calls_per_actor=options.in_flight,
            enable_true_multi_threading=True,
        ),
        num_cpus=actors.cpus,
        num_gpus=actors.gpus or None,
    )
    for batch in answers.iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy"):
        yield from map(pickle.loads, batch["answer"])


@contextmanager
def _cluster(options: RayOptions) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine; disconnect or stop it at the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what fails is raised as an exception
    address = options.ray_address or os.environ.get("RAY_ADDRESS")
    _check_reachable(address)
    starting: dict[str, Any] = {
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    on_signal = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            logging_level=logging.ERROR,
            log_to_driver=False,
            **({} if address else starting),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _unreachable((str(error).splitlines() or [type(error).__name__])[0]) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_signal)  # ray.init replaces it
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with redirect_stdout(sys.stderr):  # Ray prints there, too, for example about lost workers
        try:
            yield
        finally:
            ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raise ResourceError if nothing listens at host:port; Ray itself would wait for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (host and port.isascii() and port.isdigit()):
        return  # such as "auto"
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(f"{address}: {getattr(error, 'strerror', None) or error}") from None


def _unreachable(reason: str) -> ResourceError:
    return ResourceError(
        f"Ray is not reachable ({reason.rstrip('.')}); check --ray-address, or leave it out to "
        "start Ray on this machine."
    )


def _choose_actors(options: RayOptions, edits: int, device: str | None) -> Actors:
    """Choose the actors for the machines of the cluster.

    Raises UsageError if none fits on this machine. A cluster may grow while the edits run.
    """
    machines: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [machine["Resources"] for machine in machines if machine["Alive"]]
    actors = options.actors(nodes, edits, device)
    if actors.room < actors.count:
        shortage = f"{_workers(actors)} do not fit: there is room for {actors.room}"
        if not (options.ray_address or os.environ.get("RAY_ADDRESS")):
            raise UsageError(f"{shortage}; lower --ray-actors, --ray-cpus or --ray-gpus.")
        say(f"warning: {shortage}; the others start if the cluster grows")
    return actors


def _workers(actors: Actors) -> str:
    """The pool in words."""
    gpus = f" and {actors.gpus:g} GPU" if actors.gpus else ""
    if actors.count == 1:
        return f"1 worker with {actors.cpus:g} CPU{gpus}"
    return f"{actors.count} workers with {actors.cpus:g} CPU{gpus} each"


def _lost() -> ResourceError:
    return ResourceError(
        f"Its worker process was lost {ATTEMPTS} times, perhaps because the memory was full; "
        "lower --in-flight, or give each worker more resources."
    )


def _sendable(error: Exception) -> Exception:
    """Return the error, or one with the same exit code that can be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        text = f"{type(error).__name__}: {error}"
        return DiffEditError(text) if exit_code_of(error) == 2 else RuntimeError(text)
    return error
