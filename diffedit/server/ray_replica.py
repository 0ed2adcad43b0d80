"""One replica of the Ray Serve application: a server without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.types import Message

from diffedit.pipeline import DiffEditPipeline
from diffedit.server.app import create_app
from diffedit.server.forwarding import ForwardedRequest, run_app
from diffedit.server.run import log_to_stderr
from diffedit.server.settings import Settings


class Replica:
    """One server. Ray chooses the machine, creates it there, and ends it with `__del__`."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self,
        open_pipeline: Callable[[], DiffEditPipeline],
        model: str,
        settings: Settings,
        json_log: bool,
        get_name: Callable[[], str],
    ) -> None:
        """Load the model and return when it is ready. Exceptions from loading propagate."""
        self._name = get_name()
        log_to_stderr(as_json=json_log)
        self.app = create_app(open_pipeline, model, settings, replica_name=self._name)
        self.engine_host, self.scheduler = self.app.state.engine_host, self.app.state.scheduler
        self._lifespan = self.app.router.lifespan_context(self.app)
        await self._lifespan.__aenter__()
        while not self.engine_host.warm:
            if self.engine_host.load_error is not None:
                raise self.engine_host.load_error
            await asyncio.sleep(0.05)

    async def respond(self, request: ForwardedRequest) -> AsyncIterator[list[Message]]:
        """Yield the ASGI messages of the response, in batches."""
        async for messages in run_app(self.app, request):
            yield messages

    async def metrics(self) -> tuple[str, str]:
        """Return the replica's name and its metrics in Prometheus' text format."""
        return self._name, self.app.state.metrics.render().decode()

    def unfinished_jobs(self) -> int:
        """Return the number of running and queued jobs."""
        return len(self.scheduler.active) + len(self.scheduler.waiting)

    def record_routing_stats(self) -> dict[str, float]:
        """Report the load to `PictureRouter`. Ray calls this method by its name."""
        return {
            "backlog_seconds": self.scheduler.backlog_seconds,
            "encoding_seconds": self.engine_host.cost_model.encoding_seconds(),
        }

    def check_health(self) -> None:
        """Raise if the engine has failed; Ray then replaces the replica."""
        if self.engine_host.failure_reason:
            raise RuntimeError(self.engine_host.failure_reason)

    async def __del__(self) -> None:
        """Finish background jobs, then unload the model."""
        await self._lifespan.__aexit__(None, None, None)
