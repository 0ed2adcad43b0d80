"""The load of `python -m benchmarks serving`, for locust, which has an environment of its own.

    RATE=20 IMAGE=photo.jpg locust -f benchmarks/serving_load.py --headless -u 200 -r 200 -t 20s \
        --host http://127.0.0.1:8000 --csv out

RATE 0 (closed): each user sends its next edit when the last one is answered. Otherwise (open) all
users together send RATE edits a second, with random pauses: with many more users than edits in
flight this is a Poisson process. Refusals (429) are counted separately. It imports nothing of this
project.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from locust import HttpUser, task

RATE = float(os.environ.get("RATE", "0"))
IMAGE = Path(os.environ["IMAGE"]).read_bytes()
FORM = {
    "prompt": "a red cube and a yellow cone on a checked cloth",
    "source_prompt": "a black cube and a yellow cone on a checked cloth",
    "num_inference_steps": os.environ.get("STEPS", "10"),
    "output_format": "jpeg",
}


class Client(HttpUser):  # type: ignore[misc]  # locust is in another environment
    """A user that sends edits."""

    def on_start(self) -> None:
        self.random = random.Random()
        self.due = time.monotonic() + self._pause()

    def _pause(self) -> float:
        users = self.environment.parsed_options.num_users
        return self.random.expovariate(RATE / users) if RATE else 0.0

    def wait_time(self) -> float:
        """Seconds until the next edit is due."""
        return max(0.0, self.due - time.monotonic())

    @task  # type: ignore[untyped-decorator]
    def edit(self) -> None:
        """One edit with a random seed."""
        if time.monotonic() < self.due - 0.005:  # the first task runs before any wait
            return
        self.due += self._pause()
        form = {**FORM, "seed": str(self.random.randrange(2**31))}
        with self.client.post(
            "/v1/images/edits",
            files={"image": ("photo.jpg", IMAGE)},
            data=form,
            name="served",
            catch_response=True,
        ) as answer:
            if answer.status_code == 429:
                answer.request_meta["name"] = "refused"
                answer.success()
