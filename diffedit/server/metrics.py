"""Prometheus metrics, read from the scheduler's and the batcher's own counters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from diffedit.server.engine_host import EngineHost
from diffedit.server.jobs import Job
from diffedit.server.scheduler import Scheduler

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
EVENTS = ("accepted", "refused", "succeeded", "failed", "cancelled", "left")


class Metrics:
    """One server's figures."""

    def __init__(self, engine_host: EngineHost, scheduler: Scheduler) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._http = Counter(
            "diffedit_http_requests", "Answers.", ["method", "route", "status"], registry=registry
        )
        self._latency = Histogram(
            "diffedit_http_seconds", "Time to the end of an answer.", ["route"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._stages = Histogram(
            "diffedit_stage_seconds", "Time of an edit by stage.", ["stage"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.registry.register(_Kept(engine_host, scheduler))
        scheduler.on_end = self.job

    def http(self, method: str, route: str, status: int, seconds: float) -> None:
        """One answer."""
        self._http.labels(method, route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def job(self, job: Job) -> None:
        """One job at its end."""
        for answer in job.answers:
            for stage, seconds in answer.timings.items():
                self._stages.labels(stage).observe(seconds)
        if "queue" in job.seconds:
            self._stages.labels("queue").observe(job.seconds["queue"])

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Kept(Collector):
    def __init__(self, engine_host: EngineHost, scheduler: Scheduler) -> None:
        self._engine_host, self._scheduler = engine_host, scheduler

    def collect(self) -> Iterator[Metric]:
        engine_host, scheduler = self._engine_host, self._scheduler
        jobs = CounterMetricFamily("diffedit_jobs", "What became of orders.", labels=["event"])
        for event, count in {**dict.fromkeys(EVENTS, 0), **scheduler.counts}.items():
            jobs.add_metric([event], count)
        yield jobs
        yield GaugeMetricFamily("diffedit_jobs_active", "Served now.", len(scheduler.active))
        yield GaugeMetricFamily("diffedit_jobs_waiting", "In the queue.", len(scheduler.waiting))
        yield GaugeMetricFamily(
            "diffedit_backlog_seconds", "Accepted work to do.", scheduler.backlog
        )
        yield GaugeMetricFamily(
            "diffedit_ready",
            "1 where requests are taken.",
            int(engine_host.warm and not scheduler.draining),
        )
        yield GaugeMetricFamily(
            "diffedit_load_seconds", "The last opening and warm-up.", engine_host.load_seconds
        )
        pipe = engine_host.pipe
        yield GaugeMetricFamily(
            "diffedit_loaded", "1 where the model is in memory.", int(bool(pipe))
        )
        if pipe is None:
            return
        calls = CounterMetricFamily(
            "diffedit_network_calls", "Calls since loading.", labels=["network"]
        )
        rows = CounterMetricFamily(
            "diffedit_network_rows", "Rows that were run.", labels=["network"]
        )
        padded = CounterMetricFamily(
            "diffedit_padded_rows", "Places filled with padding.", labels=["network"]
        )
        for net, count in list(pipe.batcher.calls.items()):
            calls.add_metric([net], count)
            rows.add_metric([net], pipe.batcher.rows[net])
            padded.add_metric([net], pipe.batcher.padded_rows(net))
        yield calls
        yield rows
        yield padded


def merged(texts: Mapping[str, str]) -> str:
    """Several servers' figures as one text, with the label `replica`; `texts` by its values."""
    families: dict[str, Metric] = {}
    for name, text in sorted(texts.items()):
        for family in text_string_to_metric_families(text):
            kept = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                kept.samples.append(sample._replace(labels={**sample.labels, "replica": name}))
    registry = CollectorRegistry()
    registry.register(_Read(list(families.values())))
    return generate_latest(registry).decode()


class _Read(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families
