"""`serve`: the HTTP server and its page."""

from __future__ import annotations

import difflib
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffedit.cli.errors import UsageError, say
from diffedit.cli.extras import extra
from diffedit.cli.model_options import ModelOptions

if TYPE_CHECKING:
    from diffedit.server import Settings

_PANEL = "Server"
PREFIXES = ("DIFFEDIT_SERVE_", "DIFFEDIT_SERVER_")
"""Prefixes of environment variables that are checked as settings; the second is a misspelling."""


def _option(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=_PANEL, **more)


Host = Annotated[str | None, _option("Address to listen on (127.0.0.1).", "--host")]
Port = Annotated[int | None, _option("Port; 0 picks a free one (8000).", "--port")]
ApiKeys = Annotated[
    Path | None, _option("Require API keys: a file with a name and a key per line.", "--api-keys")
]
Insecure = Annotated[bool | None, _option("Accept other machines without API keys.", "--insecure")]
AllowedHost = Annotated[
    list[str] | None, _option("Accept this Host header (repeatable).", "--allowed-host")
]
ServedModelName = Annotated[
    list[str] | None,
    _option("Also accept this model name in requests (repeatable).", "--served-model-name"),
]
MaxActive = Annotated[
    int | None, _option("Maximum number of edits that run at the same time (8).", "--max-active")
]
MaxQueue = Annotated[
    float | None, _option("Maximum predicted seconds of queued work (120).", "--max-queue-seconds")
]
Timeout = Annotated[
    float | None, _option("Time limit of an edit in seconds (600).", "--request-seconds")
]
IdleUnload = Annotated[
    str | None, _option("Unload the model when idle this long, e.g. 10m.", "--idle-unload")
]
Ray = Annotated[bool, _option("Run several replicas with Ray Serve.", "--ray")]
Replicas = Annotated[
    str | None, _option("With --ray: a number, or MIN:MAX (one per GPU).", "--replicas")
]
JsonLog = Annotated[bool, _option("Log JSON lines.", "--json-log")]


def serve(
    *,
    host: Host = None,
    port: Port = None,
    api_keys: ApiKeys = None,
    insecure: Insecure = None,
    allowed_host: AllowedHost = None,
    served_model_name: ServedModelName = None,
    max_active: MaxActive = None,
    max_queue_seconds: MaxQueue = None,
    request_seconds: Timeout = None,
    idle_unload: IdleUnload = None,
    ray: Ray = False,
    replicas: Replicas = None,
    json_log: JsonLog = False,
    model_options: ModelOptions,
) -> None:
    """Serve edits over HTTP, in the format of OpenAI's API, with a web page.

    Options that are left out come from environment variables such as DIFFEDIT_SERVE_PORT. Further
    settings are environment variables only: see docs/server.md.
    """
    given = dict(locals())
    with extra("server"):
        from diffedit.server import create_app
        from diffedit.server.auth import ApiKeys as KeyFile
        from diffedit.server.listen import listening
        from diffedit.server.names import url_host
        from diffedit.server.run import check_binding, log_to_stderr, run
    if replicas is not None and not ray:
        raise UsageError("--replicas needs Ray Serve, but --ray is not given; add --ray.")
    names = "host port api_keys insecure max_active max_queue_seconds request_seconds".split()
    values = {name: given[name] for name in names if given[name] is not None}
    if allowed_host:
        values["allowed_hosts"] = tuple(allowed_host)
    if served_model_name:
        values["served_model_names"] = tuple(served_model_name)
    if idle_unload is not None:
        values["idle_unload_seconds"] = parse_duration(idle_unload)
    settings = make_settings(values)
    check_binding(settings)
    if settings.api_keys is not None:
        KeyFile.read(settings.api_keys)
    if not ray:  # the replicas may run on other machines
        check_model_options(model_options)
    name, open_pipeline = served_name(model_options.model), partial(_open_pipeline, model_options)
    log_to_stderr(as_json=json_log)
    with listening(settings.host, settings.port) as sockets:  # before the model is loaded
        settings = settings.model_copy(update={"port": sockets[0].getsockname()[1]})
        if not json_log:
            page = f"http://{url_host(settings.host)}:{settings.port}/"
            say(f"Loading {model_options.model}. The page is at {page}")
        if not ray:
            sys.exit(run(create_app(open_pipeline, name, settings), settings, sockets))
    with extra("ray"):
        from diffedit.server import ray_app
        from diffedit.server.scaling import Scaling
    scaling = Scaling.for_this_machine(replicas, model_options.device)
    # A missing model is reported here, not by every replica.
    model_options.source.open(model_options.model)
    application = ray_app.build(open_pipeline, name, settings, scaling, json_log=json_log)
    sys.exit(ray_app.run(application, settings))


def make_settings(values: dict[str, Any]) -> Settings:
    """Combine the given values, the environment and the defaults. Raises DiffEditError."""
    from diffedit.server.settings import Settings, read_settings

    known = {f"DIFFEDIT_SERVE_{name.upper()}" for name in Settings.model_fields}
    unknown = sorted(n for n in os.environ if n.startswith(PREFIXES) and n not in known)
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {close[0]}?" if close else "see docs/server.md for the settings."
        raise UsageError(f"There is no setting {unknown[0]}; {hint}")
    return read_settings(values)


def check_model_options(options: ModelOptions) -> None:
    """Check the model's options before the server takes its address. Raises InvalidRequest."""
    from diffedit.arguments import CHECKS

    for name, value in options.pipeline_arguments().items():
        CHECKS[name](value)


def _open_pipeline(options: ModelOptions) -> Any:
    from diffedit import DiffEditPipeline

    return DiffEditPipeline.from_pretrained(**options.pipeline_arguments(), warm=True)


def served_name(model: str) -> str:
    """Return the name to serve a model under: that of the folder or single file, or the hub id."""
    path = Path(model)
    if not path.exists():
        return model
    if path.is_file():
        return path.stem
    name = path.resolve().name
    parent = path.resolve().parent.name
    return f"{parent}-{name}" if name == "model" and parent else name


def parse_duration(text: str) -> float:
    """Parse a duration such as 90, 90s, 10m or 2h into seconds. Raises UsageError.

    Examples:
        >>> parse_duration("10m")
        600.0
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(s|m|h)?", text)
    if not match or float(match[1]) == 0:
        raise UsageError(
            f"--idle-unload is {text!r}, but must be a duration such as 90s, 10m or 2h."
        )
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"]
