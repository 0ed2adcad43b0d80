"""The Idempotency-Key header: repeating a request returns its first job.

The server remembers the job of each key, and a digest of the form to detect a key that is reused
for a different request.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass

from diffedit.server.errors import ApiError
from diffedit.server.forms import EditForm

MAX_KEYS = 10_000
MAX_KEY_LENGTH = 256


@dataclass(frozen=True)
class Submission:
    """The job that a key created, and the digest of its form."""

    job_id: str
    digest: str


class IdempotencyKeys:
    """The newest `MAX_KEYS` keys. Each API key has its own."""

    def __init__(self) -> None:
        self._submissions: OrderedDict[tuple[str | None, str], Submission] = OrderedDict()

    def find(self, owner: str | None, key: str) -> Submission | None:
        """Return the earlier submission with this key, or None. An empty key matches nothing."""
        return self._submissions.get((owner, key)) if key else None

    def record(self, owner: str | None, key: str, job_id: str, form: EditForm) -> None:
        """Remember the job that a form created."""
        if not key:
            return
        self._submissions[owner, key] = Submission(job_id, form_digest(form))
        while len(self._submissions) > MAX_KEYS:
            self._submissions.popitem(last=False)


def check_key(key: str) -> None:
    """Raise ApiError if the key is too long."""
    if len(key) > MAX_KEY_LENGTH:
        message = f"Idempotency-Key has more than {MAX_KEY_LENGTH} characters; shorten it."
        raise ApiError(400, "invalid_value", message)


def check_same_form(submission: Submission, form: EditForm) -> None:
    """Raise ApiError if the key was used with a different form."""
    if submission.digest != form_digest(form):
        raise ApiError(
            422,
            "idempotency_key_reused",
            "This Idempotency-Key was used with a different form; use a new key.",
        )


def form_digest(form: EditForm) -> str:
    """SHA-256 over every field of a form."""
    fields = {k: v for k, v in vars(form).items() if k not in ("image", "mask", "parameters")}
    encoded = json.dumps([fields, dict(form.parameters)], sort_keys=True, default=str).encode()
    digest = hashlib.sha256(encoded)
    for data in (form.image, form.mask or b""):
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()
