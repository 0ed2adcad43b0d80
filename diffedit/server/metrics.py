"""Prometheus metrics of one server, and the merged metrics of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from diffedit.pipeline import DiffEditPipeline
from diffedit.server.engine_host import EngineHost
from diffedit.server.errors import out_of_device_memory
from diffedit.server.jobs import Job
from diffedit.server.scheduler import Scheduler
from diffedit.server.uploads import Uploads
from engine.errors import out_of_memory

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Upper bounds of the histograms' buckets, in seconds."""
EVENTS = ("accepted", "refused", "succeeded", "failed", "cancelled", "left")
"""Job events that are exported from the start, before they first happen."""


class Metrics:
    """The metrics of one server: counters, and the state of the scheduler and the engine."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, engine_host: EngineHost, scheduler: Scheduler, uploads: Uploads) -> None:
        self._registry = CollectorRegistry()
        self._responses = Counter(
            "diffedit_http_requests",
            "HTTP responses by method, route and status.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._latency = Histogram(
            "diffedit_http_seconds",
            "Seconds from the request to the end of the response.",
            ["route"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._stages = Histogram(
            "diffedit_stage_seconds",
            "Seconds per stage of a finished edit.",
            ["stage"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._out_of_memory = Counter(
            "diffedit_out_of_memory",
            "Requests that failed because memory ran out, of the host or of the device.",
            ["memory"],
            registry=self._registry,
        )
        for memory in ("host", "device"):
            self._out_of_memory.labels(memory)
        self._registry.register(_StateCollector(engine_host, scheduler, uploads))
        scheduler.on_finish, scheduler.on_error = self.observe_job, self.observe_error

    def observe_response(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a response."""
        self._responses.labels(method, route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def observe_job(self, job: Job) -> None:
        """Record the stages of a finished job."""
        for edit in job.edits:
            for stage, seconds in edit.timings.items():
                self._stages.labels(stage).observe(seconds)
        if "queue" in job.timings:
            self._stages.labels("queue").observe(job.timings["queue"])

    def observe_error(self, error: BaseException) -> None:
        """Count an exception if memory ran out."""
        if out_of_memory(error):
            memory = "device" if out_of_device_memory(error) else "host"
            self._out_of_memory.labels(memory).inc()

    def render(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _StateCollector(Collector):
    """Reads the state of the scheduler, the uploads, the engine host and the batcher."""

    def __init__(self, engine_host: EngineHost, scheduler: Scheduler, uploads: Uploads) -> None:
        self._engine_host, self._scheduler, self._uploads = engine_host, scheduler, uploads

    def collect(self) -> Iterator[Metric]:
        yield self._job_events()
        yield from self._gauges()
        if self._engine_host.pipeline is not None:
            yield from _network_counters(self._engine_host.pipeline)

    def _job_events(self) -> Metric:
        jobs = CounterMetricFamily("diffedit_jobs", "Job events by name.", labels=["event"])
        counts = {**dict.fromkeys(EVENTS, 0), **self._scheduler.event_counts}
        for event, count in counts.items():
            jobs.add_metric([event], count)
        return jobs

    def _gauges(self) -> Iterator[Metric]:
        engine_host, scheduler = self._engine_host, self._scheduler
        ready = engine_host.warm and not scheduler.leaving
        loaded = engine_host.pipeline is not None
        for name, description, value in (
            ("diffedit_jobs_active", "Running jobs.", len(scheduler.active)),
            ("diffedit_jobs_waiting", "Queued jobs.", len(scheduler.waiting)),
            (
                "diffedit_backlog_seconds",
                "Predicted seconds of work in running and queued jobs.",
                scheduler.backlog_seconds,
            ),
            (
                "diffedit_job_bytes",
                "Predicted bytes of running and queued jobs, and of results being sent.",
                scheduler.held_bytes,
            ),
            ("diffedit_uploads", "Request bodies that are being read.", self._uploads.count),
            (
                "diffedit_upload_bytes",
                "Bytes of the request bodies that are being read.",
                self._uploads.received_bytes,
            ),
            ("diffedit_ready", "1 if the readiness probe succeeds.", int(ready)),
            (
                "diffedit_load_seconds",
                "Duration of the last model load and warm-up in seconds.",
                engine_host.load_seconds,
            ),
            ("diffedit_loaded", "1 if the model is in memory.", int(loaded)),
        ):
            yield GaugeMetricFamily(name, description, value)


def _network_counters(pipeline: DiffEditPipeline) -> Iterator[Metric]:
    calls = CounterMetricFamily(
        "diffedit_network_calls", "Network calls since the model was loaded.", labels=["network"]
    )
    rows = CounterMetricFamily(
        "diffedit_network_rows", "Rows run since the model was loaded.", labels=["network"]
    )
    padded = CounterMetricFamily(
        "diffedit_padded_rows", "Padding rows since the model was loaded.", labels=["network"]
    )
    batcher = pipeline.batcher
    for net, count in list(batcher.calls.items()):
        calls.add_metric([net], count)
        rows.add_metric([net], batcher.rows[net])
        padded.add_metric([net], batcher.padded_rows(net))
    yield from (calls, rows, padded)


def merge_metrics(text_by_replica: Mapping[str, str]) -> str:
    """Merge the metrics of several replicas. Each sample gets the label `replica`."""
    families: dict[str, Metric] = {}
    for replica, text in sorted(text_by_replica.items()):
        for family in text_string_to_metric_families(text):
            merged = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                labels = {**sample.labels, "replica": replica}
                merged.samples.append(sample._replace(labels=labels))
    registry = CollectorRegistry()
    registry.register(_FixedCollector(list(families.values())))
    return generate_latest(registry).decode()


class _FixedCollector(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families
