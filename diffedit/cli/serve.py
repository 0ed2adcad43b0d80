"""`serve`: the HTTP server and its page."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffedit.cli import options as o
from diffedit.cli.errors import UsageError, say
from diffedit.cli.options import ModelOptions

if TYPE_CHECKING:
    from diffedit.server import Settings

_PANEL = "Server"


def _option(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=_PANEL, **more)


Host = Annotated[str | None, _option("Address to listen on (127.0.0.1).", "--host")]
Port = Annotated[int | None, _option("Port; 0 takes a free one (8000).", "--port")]
ApiKeys = Annotated[
    Path | None, _option("File with a name and a key a line, asked for from then on.", "--api-keys")
]
Insecure = Annotated[bool | None, _option("Listen beyond this machine without keys.", "--insecure")]
AllowedHost = Annotated[
    list[str] | None, _option("A name it is called by (repeatable).", "--allowed-host")
]
MaxActive = Annotated[int | None, _option("Edits that share calls at a time (8).", "--max-active")]
MaxQueue = Annotated[
    float | None, _option("Seconds of work that may wait (120).", "--max-queue-seconds")
]
Timeout = Annotated[float | None, _option("Seconds an edit may take (600).", "--request-seconds")]
IdleUnload = Annotated[
    str | None, _option("Put the model away after so long, e.g. 10m.", "--idle-unload")
]
Ray = Annotated[bool, _option("Several replicas behind this address, by Ray Serve.", "--ray")]
Replicas = Annotated[
    str | None, _option("With --ray: how many, or least:most (one a GPU).", "--replicas")
]
JsonLog = Annotated[bool, _option("Log as json lines.", "--json-log")]


def serve(
    model: o.Model = None,
    host: Host = None,
    port: Port = None,
    api_keys: ApiKeys = None,
    insecure: Insecure = None,
    allowed_host: AllowedHost = None,
    max_active: MaxActive = None,
    max_queue_seconds: MaxQueue = None,
    request_seconds: Timeout = None,
    idle_unload: IdleUnload = None,
    ray: Ray = False,
    replicas: Replicas = None,
    json_log: JsonLog = False,
    variant: o.Variant = None,
    revision: o.Revision = None,
    engines: o.Engines = None,
    backend: o.Backend = "auto",
    dtype: o.DType = None,
    device: o.Device = None,
    size: o.NetSize = None,
    compile: o.Compile = False,
    pin_batch_size: o.Pin = None,
) -> None:
    """Serve edits over HTTP, in OpenAI's shape, with a page to try them on.

    What is not given here is taken from environment variables such as DIFFEDIT_SERVE_PORT, which
    also set every further limit: see docs/server.md.
    """
    given = dict(locals())
    with _extra("server"):
        from diffedit.server import create_app
        from diffedit.server.run import check_binding, log_to_stderr, run
    if replicas is not None and not ray:
        raise UsageError("--replicas is for Ray's replicas; give --ray as well.")
    names = "host port api_keys insecure max_active max_queue_seconds request_seconds".split()
    wanted = {name: given[name] for name in names if given[name] is not None}
    if allowed_host:
        wanted["allowed_hosts"] = tuple(allowed_host)
    if idle_unload:
        wanted["idle_unload_seconds"] = seconds_of(idle_unload)
    settings = settings_of(wanted)
    check_binding(settings)
    options = ModelOptions.of(given)
    name, open_model = served_name(options.model), partial(_open, options)
    log_to_stderr(as_json=json_log)
    if not json_log:
        say(f"loading {options.model}; the page will be at http://{settings.host}:{settings.port}/")
    if not ray:
        sys.exit(run(create_app(open_model, name, settings), settings))
    with _extra("ray"):
        from diffedit.server import ray_app
        from diffedit.server.scaling import Scaling
        from engine.hub import find_checkpoint
    scale = Scaling.here(replicas, device)
    find_checkpoint(
        options.model, variant=variant, revision=revision
    )  # here its absence is one sentence
    application = ray_app.build(open_model, name, settings, scale, json_log=json_log)
    sys.exit(ray_app.run(application, settings))


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """Imports of an extra; UsageError where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(
            f"This needs the package {error.name}; install the extra: "
            f"pip install 'diffedit-trt[{name}]'"
        ) from None


def settings_of(wanted: dict[str, Any]) -> Settings:
    """The limits given, the environment's, the defaults; UsageError where one makes no sense."""
    from pydantic import ValidationError

    from diffedit.server import Settings

    known = {f"DIFFEDIT_SERVE_{name.upper()}" for name in Settings.model_fields}
    unknown = sorted(n for n in os.environ if n.startswith("DIFFEDIT_SERVE_") and n not in known)
    if unknown:
        raise UsageError(f"There is no setting {unknown[0]}; docs/server.md lists them.")
    try:
        return Settings(**wanted)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "a setting"
        raise UsageError(f"{name} is wrong: {first['msg']}.") from None


def _open(options: ModelOptions) -> Any:
    from diffedit import DiffEditPipeline

    return DiffEditPipeline.from_pretrained(**options.pipeline_arguments())


def served_name(model: str) -> str:
    """A folder's own name, without the way to it; a hub id as it is."""
    path = Path(model)
    if not path.exists():
        return model
    name = path.resolve().name
    parent = path.resolve().parent.name
    return f"{parent}-{name}" if name == "model" and parent else name


def seconds_of(text: str) -> float:
    """A length of time as in 90, 90s, 10m or 2h; UsageError where it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)?", text)
    if not found or float(found[1]) == 0:
        raise UsageError(f"--idle-unload is {text!r}, but must be a time such as 90s, 10m or 2h.")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2] or "s"]
