"""The Idempotency-Key header: a repeated request returns the job of the first one.

A key is reserved before the first byte of the form is read, so that simultaneous requests create
one job. If the first request is refused, or its job fails or is cancelled, the key is released.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from diffedit.server.errors import ApiError
from diffedit.server.forms import EditForm
from diffedit.server.job_store import JobStore
from diffedit.server.jobs import Job

MAX_KEYS = 10_000
MAX_KEY_LENGTH = 256
HEADER = "Idempotency-Key"

Name = tuple[str | None, str]
"""The owner of a key, and the key."""


class _Reservation:
    """One key: reserved by a request, then settled with its job, or released without one."""

    def __init__(self) -> None:
        self.job_id: str | None = None
        self.digest = ""
        self.settled = asyncio.Event()


class IdempotencyKeys:
    """The newest `MAX_KEYS` keys. Each API key has its own."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._reservations: OrderedDict[Name, _Reservation] = OrderedDict()

    async def job(
        self,
        name: Name,
        read: Callable[[bool], Awaitable[tuple[EditForm, str]]],
        admit: Callable[[EditForm], Job],
    ) -> Job:
        """Return the job of an earlier request with the same key and form, or create one.

        Args:
            name: owner and key.
            read: reads the form and returns it with its digest. Its argument says whether an
                earlier request has reserved the key.
            admit: creates the job of a form.

        Raises ApiError: 422 if the key was used with another form, or what `read` and `admit`
        raise.
        """
        reservation = self._reserve(name)
        try:
            form, digest = await read(reservation is None)
            while reservation is None:
                if job := await self._earlier_job(name, digest):
                    return job
                reservation = self._reserve(name)
            job = admit(form)
            reservation.job_id, reservation.digest = job.id, digest
            return job
        finally:
            if reservation is not None:
                self._settle(name, reservation)

    def _reserve(self, name: Name) -> _Reservation | None:
        """Reserve a free key, or return None."""
        earlier = self._reservations.get(name)
        if earlier is not None and (not earlier.settled.is_set() or self._live_job(earlier)):
            return None
        self._reservations[name] = reservation = _Reservation()
        self._reservations.move_to_end(name)
        while len(self._reservations) > MAX_KEYS:
            self._reservations.popitem(last=False)
        return reservation

    def _settle(self, name: Name, reservation: _Reservation) -> None:
        """End a reservation, and free its key if there is no job."""
        reservation.settled.set()
        if reservation.job_id is None and self._reservations.get(name) is reservation:
            del self._reservations[name]

    async def _earlier_job(self, name: Name, digest: str) -> Job | None:
        """Wait for the request that reserved the key, and return its job; None if it failed."""
        earlier = self._reservations.get(name)
        if earlier is None:
            return None
        await earlier.settled.wait()
        job = self._live_job(earlier)
        if job is not None and earlier.digest != digest:
            raise ApiError(
                422,
                "idempotency_key_reused",
                f"This {HEADER} was used with a different form; use a new key.",
                HEADER,
            )
        return job

    def _live_job(self, reservation: _Reservation) -> Job | None:
        """The job of a key, unless it failed, was cancelled or has expired."""
        job = self._store.get(reservation.job_id) if reservation.job_id else None
        if job is None or job.cancelling or job.state in ("failed", "cancelled"):
            return None
        return job


def read_key(header: str | None) -> str:
    """Return the key, or "" if there is none. Raises ApiError if it is too long."""
    if len(header or "") > MAX_KEY_LENGTH:
        message = f"{HEADER} has more than {MAX_KEY_LENGTH} characters; shorten it."
        raise ApiError(400, "invalid_value", message, HEADER)
    return header or ""


def form_digest(path: str, form: EditForm) -> str:
    """SHA-256 over the path of a request and every field of its form."""
    fields = {k: v for k, v in vars(form).items() if k not in ("image", "mask", "parameters")}
    content = [path, fields, dict(form.parameters)]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode())
    assert isinstance(form.image, bytes)  # its ids are not replaced yet
    for data in (form.image, form.mask):
        digest.update(hashlib.sha256(data).digest() if data is not None else b"none")
    return digest.hexdigest()
