"""What /openapi.json promises, held against the server: orders made up from the description itself,
good and bad ones, sent over HTTP to a server on fake networks in a process of its own.

DIFFEDIT_CONTRACT_CASES says how many (500), DIFFEDIT_CONTRACT_SEED which ones (0). `make contract`
sends 10,000 and prints what was tried.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

import httpx2 as httpx
import jsonschema_rs
import requests
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import APIOperation, Case, CheckContext, GenerationMode, HookContext, Response
from schemathesis import checks as known
from schemathesis.core.result import Ok
from schemathesis.errors import FailureGroup
from schemathesis.transport.serialization import Binary

from demo.picture import still_life
from diffedit.server.forms import FORMATS, SIZE
from tests.server.kit import FAST, Process, encoded, picture, served

CASES = int(os.environ.get("DIFFEDIT_CONTRACT_CASES", "500"))
SEED = int(os.environ.get("DIFFEDIT_CONTRACT_SEED", "0"))
SHARES = {
    "POST /v1/images/edits": 0.30,
    "POST /v1/jobs": 0.24,
    "POST /v1/masks": 0.20,
    "GET /v1/jobs/{job_id}": 0.05,
    "GET /v1/jobs/{job_id}/events": 0.05,
    "GET /v1/jobs/{job_id}/image": 0.06,
    "GET /v1/jobs/{job_id}/mask": 0.06,
    "DELETE /v1/jobs/{job_id}": 0.04,
}
"""Of all cases, those of one operation. What takes no parameters is tried once besides."""
GOOD = {"POST /v1/images/edits": 200, "POST /v1/jobs": 202, "POST /v1/masks": 200}
LIMITS = {"DIFFEDIT_SERVE_REQUEST_SECONDS": "2"}  # what takes longer is refused before it begins
BATCH = 10
"""Cases of one seed. Beyond ten Hypothesis varies what it has, and most would be nearly alike."""
AnyCase = Case[Any]
Operation = APIOperation[Any, Any, Any, Any]
MODES = {GenerationMode.POSITIVE: "valid", GenerationMode.NEGATIVE: "invalid"}


# -- what is made up ------------------------------------------------------------------------------


PHOTO = still_life(48, 36)
FADED = PHOTO.convert("RGBA")
FADED.putalpha(Image.linear_gradient("L").resize(PHOTO.size))
WHOLE = [encoded(image) for image in (PHOTO, PHOTO.convert("L"), FADED)]


def files(form: str) -> st.SearchStrategy[bytes]:
    """Files of one type: mostly whole pictures, and those of one size, so that masks fit."""
    modes = (PHOTO, PHOTO.convert("L"), *(() if form == "JPEG" else (FADED,)))
    whole = [encoded(image, form) for image in modes]
    other = [encoded(still_life(20, 30), form), whole[0][: len(whole[0]) // 2], b"", b"no picture"]
    return st.sampled_from([*whole * 8, *other])


def within_reach(context: HookContext, body: Any) -> st.SearchStrategy[Any]:
    """Seven orders of eight made cheap, and for what is there: made-up ones take minutes, and name
    sizes and models that nobody has. What is invalid in them stays so."""
    fields = getattr(body, "body", body)  # a form comes together with its files' types
    if not isinstance(fields, dict):
        return st.just(body)
    samples = [name for name in ("image", "mask") if isinstance(fields.get(name), Binary)]

    def holds(name: str, low: int, high: int) -> bool:
        return type(fields.get(name)) is int and low <= fields[name] <= high

    def ease(of_eight: int, whole: bytes) -> Any:
        if of_eight == 0:
            return body
        fields.update(dict.fromkeys(samples, whole))
        fields.setdefault("num_inference_steps", 5)
        fields.setdefault("num_maps_per_mask", 2)
        for name, high, few in (
            ("num_inference_steps", 1000, 5),
            ("num_maps_per_mask", 64, 2),
            ("n", 10, 2),
        ):
            if holds(name, 1, high):
                fields[name] = 1 + fields[name] % few
        if re.fullmatch(SIZE, str(fields.get("size"))):
            fields["size"] = "auto"
        if isinstance(fields.get("model"), str):
            fields["model"] = "fake"
        if "mask" in fields and holds("mask_dilation", 1, 64):
            fields["mask_dilation"] = 0
        if "mask" in fields and fields.get("method") in ("sdedit", "encode-decode"):
            fields["method"] = "masked-sdedit"
        return body

    return st.builds(ease, st.integers(0, 7), st.sampled_from(WHOLE))


# -- what is sent and what comes back -------------------------------------------------------------


def foreseen(ctx: CheckContext, response: Response, case: AnyCase) -> None:
    """The server may be out of time or memory, and says when to come back; nothing else of 5xx."""
    assert response.status_code < 500 or response.status_code == 503, "an error nobody foresaw"
    assert response.headers.get("x-request-id"), "an answer without X-Request-Id"


def invalid_is_refused(ctx: CheckContext, response: Response, case: AnyCase) -> None:
    """What is invalid is answered with a 4xx, unless sending it as a form made it valid."""
    mutations = getattr(case.meta and case.meta.phase.data, "mutations", ())
    in_form = {mutation.parameter_location.value for mutation in mutations} == {"body"}
    if not (in_form and valid_as_sent(response, case)):
        known.negative_data_rejection(ctx, response, case)


def valid_as_sent(response: Response, case: AnyCase) -> bool:
    """Whether the form that was sent is what the description asks for: there null is a word like
    others, a list of one is that one, and a file is whatever it is until it is opened."""
    content = case.operation.definition.raw["requestBody"]["content"]
    schema = content["multipart/form-data"]["schema"]
    body = response.request.body
    if not isinstance(body, bytes):
        return False
    head = f"Content-Type: {response.request.headers.get('Content-Type')!s}\r\n\r\n"
    whole = BytesParser(policy=HTTP).parsebytes(head.encode() + body)
    sent: dict[str, Any] = {}
    for part in whole.iter_parts():
        name = str(part.get_param("name", header="content-disposition"))
        if name in sent:
            return False
        text = part.get_payload(decode=True)
        assert isinstance(text, bytes)
        field = schema["properties"].get(name, {})
        sent[name] = text.decode("utf-8", "replace")
        if field.get("type") not in (None, "string"):
            with contextlib.suppress(ValueError):
                sent[name] = json.loads(text)
    return jsonschema_rs.is_valid(schema, sent)


CHECKS = [
    foreseen,
    invalid_is_refused,
    known.status_code_conformance,
    known.content_type_conformance,
    known.response_headers_conformance,
    known.response_schema_conformance,
]


class Trial:
    """Requests to one server, and what came of them.

    Attributes:
        answers: of each operation, how often a valid or an invalid request had which status.
        failures: broken promises, each kind once, with a request that shows it.
        jobs: ids of jobs, for whoever asks for one.
        cut_short: batches that could not be made up to their end.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.schema = schemathesis.openapi.from_url(
            f"{url}/openapi.json", config=schemathesis.Config(seed=SEED)
        )
        self.schema.hook("flatmap_body")(within_reach)
        self.operations = [
            found.ok() for found in self.schema.get_all_operations() if isinstance(found, Ok)
        ]
        self.followers = [o for o in self.operations if "{job_id}" in o.path]
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy stands between
        self.answers: dict[str, Counter[tuple[str, int]]] = {}
        self.failures: dict[tuple[str, str], str] = {}
        self.jobs: list[str] = []
        self.cut_short = 0

    def run(self, operation: Operation, mode: GenerationMode, cases: int) -> None:
        """That many requests of one kind."""

        @settings(
            max_examples=min(cases, BATCH),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode), st.integers(0, 1000))
        def tried(case: AnyCase, place: int) -> None:
            if "job_id" in case.path_parameters and place % 4:
                case.path_parameters["job_id"] = self.jobs[place % len(self.jobs)]
            self.send(case)

        for batch in range(math.ceil(cases / BATCH)):
            try:
                seed(f"{SEED} {batch}")(tried)()
            except ValueError as error:  # Schemathesis 4.32 now and then trips over its own files
                if str(error) != "Unsupported type: 'Binary'":
                    raise
                self.cut_short += 1

    def send(self, case: AnyCase) -> None:
        """One request, held to every promise; what is broken is noted, and the trial goes on."""
        label = case.operation.label
        mode = GenerationMode.POSITIVE if case.meta is None else case.meta.generation.mode
        response = case.call(base_url=self.url, session=self.session, timeout=60)
        self.answers.setdefault(label, Counter())[MODES[mode], response.status_code] += 1
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as group:
            for failure in group.exceptions:
                said = f"{response.status_code}: {str(failure).splitlines()[0]}"
                self.failures.setdefault((label, said), str(group))
        if response.status_code == 202:  # and at once, while it is under way, something of the job
            self.jobs.append(response.json()["id"])
            follower = self.followers[len(self.jobs) % len(self.followers)]
            self.send(follower.Case(path_parameters={"job_id": self.jobs[-1]}))

    def count(self, *statuses: int, label: str = "", mode: str = "") -> int:
        """Answers of these statuses, or of any."""
        return sum(
            count
            for path, counted in self.answers.items()
            for (kind, status), count in counted.items()
            if label in ("", path) and mode in ("", kind) and (not statuses or status in statuses)
        )

    def __str__(self) -> str:
        lines = [f"{self.count()} requests (seed {SEED}), {len(self.failures)} promises broken"]
        for label, counted in self.answers.items():
            told = []
            for mode in MODES.values():
                figures = {s: n for (kind, s), n in sorted(counted.items()) if kind == mode}
                if figures:
                    each = ", ".join(f"{n} x {status}" for status, n in figures.items())
                    told.append(f"{sum(figures.values())} {mode} ({each})")
            lines.append(f"  {label}: {'; '.join(told)}")
        lines += [f"  batches cut short: {self.cut_short}"] if self.cut_short else []
        lines += [f"  broken: {label} {said}" for label, said in self.failures]
        return "\n".join(lines)


@contextlib.contextmanager
def log_of(server: Process) -> Iterator[list[str]]:
    """The lines that a server writes; unread they would stop it in the end."""
    lines: list[str] = []
    reader = threading.Thread(target=lines.extend, args=(server.process.stderr,))
    reader.start()
    try:
        yield lines
    finally:
        server.process.kill()
        reader.join()


def send_jobs(url: str) -> list[str]:
    """A job that succeeded, one that failed and one that was cancelled."""

    def start(image: bytes, **more: str) -> str:
        sent = {"image": ("a.png", image)}
        answer = httpx.post(f"{url}/v1/jobs", files=sent, data={**FAST, **more})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    good, bad = start(picture(), n="2"), start(picture()[:900])
    for job in (good, bad):
        httpx.get(f"{url}/v1/jobs/{job}/events", timeout=60)  # to its end
    stopped = start(picture(), num_inference_steps="100")
    httpx.delete(f"{url}/v1/jobs/{stopped}")
    jobs = [good, bad, stopped]
    states = [httpx.get(f"{url}/v1/jobs/{job}").json()["state"] for job in jobs]
    assert states[:2] == ["succeeded", "failed"]
    return jobs


def wait_until_idle(url: str) -> None:
    """Until no edit is under way or waits."""
    deadline = time.monotonic() + 20
    idle = {"diffedit_jobs_active 0.0", "diffedit_jobs_waiting 0.0"}
    while not idle <= set(httpx.get(f"{url}/metrics").text.splitlines()):
        assert time.monotonic() < deadline, "a job was left behind"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(max(300, CASES))
def test_the_server_does_what_its_description_says(tiny: Path) -> None:
    for form in FORMATS:
        schemathesis.openapi.media_type(f"image/{form}", files(form.upper()))
    with served(tiny, "--call-ms", "1", **LIMITS) as server, log_of(server) as log:
        trial = Trial(server.url)
        trial.jobs += send_jobs(server.url)
        began = time.monotonic()
        for operation in trial.operations:
            cases = max(1, int(CASES * SHARES.get(operation.label, 0)))
            modes = list(MODES) if operation.body or operation.query else [GenerationMode.POSITIVE]
            for mode in modes:
                trial.run(operation, mode, math.ceil(cases / len(modes)))
        print(f"\n{trial}\n  {time.monotonic() - began:.0f} s")
        wait_until_idle(server.url)
        ready = httpx.get(f"{server.url}/readyz").status_code
        server.terminate()
        assert (ready, server.wait()) == (200, 0)
    assert not trial.failures, "\n".join(trial.failures.values())
    assert not [line for line in log if "Traceback" in line]
    assert trial.count() >= 0.9 * CASES
    for label, status in GOOD.items():
        sent = trial.count(label=label, mode="valid")
        assert trial.count(status, label=label, mode="valid") > sent / 3, f"{label} is hardly tried"


# -- what was found so, and mended ----------------------------------------------------------------


def test_a_size_that_is_none_is_refused_before_there_is_a_job(client: TestClient) -> None:
    for size in ("512", "auto*", ""):
        sent = {"image": ("a.png", picture())}
        answer = client.post("/v1/jobs", files=sent, data={**FAST, "size": size})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "size")


def test_a_deadline_is_read_to_its_last_letter(client: TestClient) -> None:
    for text, status in (("99999999999999999999e-18", 200), ("1_0", 400), ("9" * 50, 400)):
        answer = client.post(
            "/v1/images/edits",
            files={"image": ("a.png", picture())},
            data=FAST,
            headers={"X-Request-Timeout": text},
        )
        assert answer.status_code == status, answer.text


def test_streams_and_refusals_at_the_door_are_described(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    answers = paths["/v1/images/edits"]["post"]["responses"]
    assert set(answers["200"]["content"]) == {"application/json", "text/event-stream"}
    operations = [operation for path in paths.values() for operation in path.values()]
    assert all({"401", "403", "405"} <= set(o["responses"]) for o in operations)
    assert "ValidationError" not in json.dumps(paths), "an error that FastAPI would add"


def test_a_picture_that_is_none_is_refused_before_there_is_a_job(client: TestClient) -> None:
    for path, more in (("/v1/jobs", {}), ("/v1/images/edits", {"stream": "true"})):
        sent = {"image": ("a.png", b"no picture")}
        answer = client.post(path, files=sent, data={**FAST, **more})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_image")


def test_a_long_idempotency_key_is_not_cut(client: TestClient) -> None:
    headers = {"Idempotency-Key": "k" * 257}
    sent = {"image": ("a.png", picture())}
    assert client.post("/v1/jobs", files=sent, data=FAST, headers=headers).status_code == 400
