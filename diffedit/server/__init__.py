"""The HTTP server: a thin door on `diffedit.pipeline`, shaped like OpenAI's image edits.

    settings   every limit, with its default
    errors     what goes wrong, as status, sentence and code
    form       a multipart form -> `EditForm`
    pictures   bytes -> a picture and a mask that may be edited; results -> bytes
    costs      what network calls take on this machine -> seconds of work, seconds alone
    engine_host      the pipeline: opened, warmed up, watched, unloaded when idle
    jobs       `Job`: one order, from its acceptance to its answer; watching: what is seen of it
    scheduler       admission, queue, deadlines, cancelling
    routes_*   the endpoints; app puts everything together

One asyncio loop, one engine thread (the Batcher's), one small pool for pictures. Nothing here knows
how an edit works.
"""

from diffedit.server.app import create_app
from diffedit.server.settings import Settings

__all__ = ["Settings", "create_app"]
