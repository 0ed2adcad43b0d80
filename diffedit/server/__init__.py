"""The HTTP server: an API in the format of OpenAI's image edits for `diffedit.pipeline`.

    app           builds the ASGI application from the parts below
    settings      every limit, with its default
    run           runs the application under uvicorn: signals, draining, exit code, log format
    timeouts      uvicorn's HTTP protocol with a timeout for request headers

    access_log    request ids, access log, response headers, HTTP metrics
    auth          API keys, host names, origins, body size
    routes        the endpoints
    forms         multipart form -> `EditForm`
    form_fields   the text fields of a form and their parsers
    uploads       the time and the memory of request bodies
    idempotency   the Idempotency-Key header
    client_jobs   synchronous requests: wait for a job, cancel it if its clients leave
    responses     jobs and edits -> JSON and server-sent events
    errors        exceptions -> HTTP status, message and code
    json_body     JSON with large base64 texts, encoded while it is sent
    schema        the OpenAPI document

    scheduler     queue, deadlines, cancellation, draining
    admission     whether one more job fits: places, seconds, bytes
    job_runner    one job: decode, submit, wait, encode
    job_store     finished and running jobs by id
    jobs          `Job`: the state and the events of one request
    progress      progress and previews, from the engine's thread to the event loop
    cost_model    measured call times -> predicted seconds of an edit
    engine_host   loads, monitors and unloads the pipeline
    metrics       Prometheus metrics
    threads       work in other threads; releases results that arrive too late

    image_codec   bytes -> images and masks; results -> bytes
    png           a fast PNG encoder
    previews      a linear map from latents to RGB

    gateway       the front of several replicas: reads requests, picks a routing key
    forwarding    an HTTP request as plain data, and running an application on it
    ray_app       the gateway and its replicas as a Ray Serve application
    ray_replica   one replica
    ray_options   the options of that application as plain values
    router        Ray Serve's choice of replica
    scaling       the number of replicas and the resources of each

The server has one asyncio event loop, one engine thread (the Batcher's) and a small thread pool for
image work.
"""

from diffedit.server.app import create_app
from diffedit.server.settings import Settings

__all__ = ["Settings", "create_app"]
