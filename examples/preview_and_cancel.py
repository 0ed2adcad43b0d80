"""Watch an edit, and stop it when a preview is good enough.

python examples/preview_and_cancel.py build/examples/6.png "a black heart in a studio" \
    "a black mug in a studio"
"""

import sys
import threading
from typing import Any

from diffedit import Cancelled, DiffEditPipeline, EditRequest

MODEL = "demo/model"
STOP_AT = 0.8


def main(image: str, source: str, prompt: str) -> None:
    """Print progress and previews; cancel at 80 %."""
    enough = threading.Event()

    def on_progress(stage: str, done: int, total: int) -> None:
        print(f"{stage}: {done} of {total} rows")
        if done >= STOP_AT * total:
            enough.set()

    def on_preview(latent: Any, background: Any) -> None:
        print(f"preview: a latent of shape {tuple(latent.shape)}")

    request = EditRequest(image, prompt, source)
    with DiffEditPipeline.from_pretrained(MODEL) as pipe:
        handle = pipe.submit(request, callback=on_progress, on_preview=on_preview)
        enough.wait()  # the callbacks run on the engine's thread, which must not be blocked
        handle.cancel()
        try:
            handle.result()
        except Cancelled as error:
            print(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
