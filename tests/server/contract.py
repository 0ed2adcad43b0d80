"""Random requests to a server, made and checked with its OpenAPI document.

DIFFEDIT_CONTRACT_SEED sets the seed (0).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections import Counter
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from uuid import uuid4

import jsonschema_rs
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import APIOperation, Case, CheckContext, GenerationMode, HookContext, Response
from schemathesis import checks as schema_checks
from schemathesis.core.result import Ok
from schemathesis.errors import FailureGroup
from schemathesis.transport.serialization import Binary

from demo.picture import still_life
from diffedit.method_options import OWNERS, has_option
from diffedit.request import FOCUSED_METHODS, MASKED_METHODS, METHODS, RANGES
from diffedit.server.form_fields import PROMPTS, SIZE_PATTERN
from tests.server.helpers import encoded

SEED = int(os.environ.get("DIFFEDIT_CONTRACT_SEED", "0"))
BATCH = 10
"""Requests per seed. After about ten, Hypothesis mostly repeats variations of the same request."""
AnyCase = Case[Any]
Operation = APIOperation[Any, Any, Any, Any]
MODES = {GenerationMode.POSITIVE: "valid", GenerationMode.NEGATIVE: "invalid"}
PHOTO = still_life(48, 36)
FADED = PHOTO.convert("RGBA")
FADED.putalpha(Image.linear_gradient("L").resize(PHOTO.size))
MASK = encoded(Image.new("L", PHOTO.size, 255))
EDITS = '[{"prompt": "a red ball", "source_prompt": "a ball"}, {"prompt": "a vase"}]'
VALID_FILES = [encoded(image) for image in (PHOTO, PHOTO.convert("L"), FADED)]


def files(file_format: str) -> st.SearchStrategy[bytes]:
    """Files of one format: mostly valid images of one size, since masks need the image's size."""
    modes = (PHOTO, PHOTO.convert("L"), *(() if file_format == "JPEG" else (FADED,)))
    valid = [encoded(image, file_format) for image in modes]
    truncated = valid[0][: len(valid[0]) // 2]
    other = [encoded(still_life(20, 30), file_format), truncated, b"", b"not an image"]
    return st.sampled_from([*valid * 8, *other])


def make_cheap(context: HookContext, body: Any) -> st.SearchStrategy[Any]:
    """Reduce the cost of seven of eight generated forms, and use the served model and size.

    Generated edits take minutes and name unknown models. Invalid values are kept.
    """
    fields = getattr(body, "body", body)  # Schemathesis passes a form with its files' media types
    if not isinstance(fields, dict):
        return st.just(body)
    file_names = [name for name in ("image", "mask") if isinstance(fields.get(name), Binary)]

    def is_valid(name: str, low: int, high: int) -> bool:
        return type(fields.get(name)) is int and low <= fields[name] <= high

    def reduce(choice: int, image: bytes, method: str) -> Any:
        if choice == 0:
            return body
        fields.update({name: MASK if name == "mask" else image for name in file_names})
        if "previous_edit_id" in fields:
            fields.setdefault("image", image)
        for name in ("mask_id", "previous_edit_id"):  # nothing has these ids
            fields.pop(name, None)
        choose_edits(fields, choice)
        fields.setdefault("num_inference_steps", 5)
        fields.setdefault("num_maps_per_mask", 2)
        for name, high, count in (
            ("num_inference_steps", 1000, 5),
            ("num_maps_per_mask", 64, 2),
            ("n", 10, 2),
        ):
            if is_valid(name, 1, high):
                fields[name] = 1 + fields[name] % count
        if re.fullmatch(SIZE_PATTERN, str(fields.get("size"))):
            fields["size"] = "auto"
        if "guidance_interval" in fields:
            fields["guidance_interval"] = "0.4,1"
        fit_to_method(fields, method)
        if isinstance(fields.get("model"), str):
            fields["model"] = "fake"
        if "mask" in fields and is_valid("mask_dilation", 1, 64):
            fields["mask_dilation"] = 0
        threshold: Any = fields.get("mask_threshold")
        if "mask" in fields and type(threshold) in (int, float) and 0 <= threshold <= 0.99:
            fields["mask_threshold"] = 0.5
        return body

    finds_mask = context.operation is not None and context.operation.path == "/v1/masks"
    masked = finds_mask or "mask" in file_names
    allowed = MASKED_METHODS if masked else METHODS
    usable = [method for method in allowed if method != "flowedit"]
    methods = st.sampled_from([*usable * 4, "flowedit"])  # which the fake model refuses
    return st.builds(reduce, st.integers(0, 7), st.sampled_from(VALID_FILES), methods)


def choose_edits(fields: dict[str, Any], choice: int) -> None:
    """Make half of the forms with generated `edits` forms of two edits, and others of one."""
    if not isinstance(fields.pop("edits", None), str):
        return
    if choice % 2 and "method" not in fields:
        for name in (*PROMPTS, "mask", "mask_format", "focus", "preset"):
            fields.pop(name, None)
        fields["edits"] = EDITS
    else:
        fields.update(dict.fromkeys(("prompt", "source_prompt"), "a ball"))


def fit_to_method(fields: dict[str, Any], method: str) -> None:
    """Make a form one of this method: leave out valid options that only other methods have.

    Invalid values are kept.
    """
    if "edits" in fields:
        method = "diffedit"
    if fields.get("method", method) not in METHODS:
        return
    fields["method"] = method
    for name in (*OWNERS, "inversion_stride"):
        allowed = name in fields and RANGES[name].convert(fields[name]) is not None
        if allowed and not has_option(method, name):
            del fields[name]
    if not has_option(method, "guidance_interval") and fields.get("guidance_interval") == "0.4,1":
        del fields["guidance_interval"]
    if "strength" in fields and RANGES["strength"].convert(fields["strength"]) is not None:
        fields["strength"] = 0.9  # chordedit needs more than 0.15
        if method == "flowedit":
            del fields["strength"]
    focus = fields.get("focus")
    if focus == "true" and (method not in FOCUSED_METHODS or fields.get("composite") is False):
        fields["focus"] = "auto"


def no_unexpected_error(ctx: CheckContext, response: Response, case: AnyCase) -> None:
    """No 5xx except 503, and every response has a request id."""
    assert response.status_code < 500 or response.status_code == 503, "unexpected error"
    assert response.headers.get("x-request-id"), "no X-Request-Id"


def invalid_is_refused(ctx: CheckContext, response: Response, case: AnyCase) -> None:
    """Invalid requests get a 4xx, unless the encoding as a form made them valid."""
    mutations = getattr(case.meta and case.meta.phase.data, "mutations", ())
    in_form = {mutation.parameter_location.value for mutation in mutations} == {"body"}
    if not (in_form and valid_as_sent(response, case)):
        schema_checks.negative_data_rejection(ctx, response, case)


def valid_as_sent(response: Response, case: AnyCase) -> bool:
    """Whether the encoded form conforms to the schema.

    In a form, null is the text "null", and a list of one item equals the item.
    """
    content = case.operation.definition.raw["requestBody"]["content"]
    schema = content["multipart/form-data"]["schema"]
    body = response.request.body
    if not isinstance(body, bytes):
        return False
    head = f"Content-Type: {response.request.headers.get('Content-Type')!s}\r\n\r\n"
    message = BytesParser(policy=HTTP).parsebytes(head.encode() + body)
    sent: dict[str, Any] = {}
    for part in message.iter_parts():
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
    no_unexpected_error,
    invalid_is_refused,
    schema_checks.status_code_conformance,
    schema_checks.content_type_conformance,
    schema_checks.response_headers_conformance,
    schema_checks.response_schema_conformance,
]


class Trial:
    """Requests to one server, and their results.

    Attributes:
        responses: operation -> count by (valid or invalid, status).
        failures: (operation, message) -> details of the first such failure.
        jobs: ids of jobs, for requests about jobs.
        incomplete_batches: batches that Schemathesis could not generate completely.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.schema = schemathesis.openapi.from_url(
            f"{url}/openapi.json", config=schemathesis.Config(seed=SEED)
        )
        self.schema.hook("flatmap_body")(make_cheap)
        self.operations = [
            result.ok() for result in self.schema.get_all_operations() if isinstance(result, Ok)
        ]
        self.job_operations = [o for o in self.operations if "{job_id}" in o.path]
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy
        self.responses: dict[str, Counter[tuple[str, int]]] = {}
        self.failures: dict[tuple[str, str], str] = {}
        self.jobs: list[str] = []
        self.incomplete_batches = 0

    def run(self, operation: Operation, mode: GenerationMode, cases: int) -> None:
        """Send a number of requests to an operation."""

        @settings(
            max_examples=min(cases, BATCH),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode), st.integers(0, 1000))
        def send(case: AnyCase, number: int) -> None:
            if "job_id" in case.path_parameters and number % 4:
                case.path_parameters["job_id"] = self.jobs[number % len(self.jobs)]
            if "mask_id" in case.path_parameters and number % 4:
                case.path_parameters["mask_id"] = self.jobs[0]
            valid = mode is GenerationMode.POSITIVE
            if valid and number % 4 and "Idempotency-Key" in (case.headers or {}):
                case.headers["Idempotency-Key"] = str(uuid4())  # short keys repeat: 422
            self.send(case)

        for batch in range(math.ceil(cases / BATCH)):
            try:
                seed(f"{SEED} {batch}")(send)()
            except ValueError as error:  # a bug in Schemathesis 4.32
                if str(error) != "Unsupported type: 'Binary'":
                    raise
                self.incomplete_batches += 1

    def send(self, case: AnyCase) -> None:
        """Send a request, check the response, and record failures."""
        label = case.operation.label
        mode = GenerationMode.POSITIVE if case.meta is None else case.meta.generation.mode
        response = case.call(base_url=self.url, session=self.session, timeout=60)
        self.responses.setdefault(label, Counter())[MODES[mode], response.status_code] += 1
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as group:
            for failure in group.exceptions:
                summary = f"{response.status_code}: {str(failure).splitlines()[0]}"
                self.failures.setdefault((label, summary), str(group))
        if response.status_code == 202:  # while the job runs, send a request about it
            self.jobs.append(response.json()["id"])
            operation = self.job_operations[len(self.jobs) % len(self.job_operations)]
            self.send(operation.Case(path_parameters={"job_id": self.jobs[-1]}))

    def count(self, *statuses: int, label: str = "", mode: str = "") -> int:
        """Count the responses of these statuses, or all."""
        return sum(
            count
            for path, counts in self.responses.items()
            for (path_mode, status), count in counts.items()
            if label in ("", path)
            and mode in ("", path_mode)
            and (not statuses or status in statuses)
        )

    def __str__(self) -> str:
        lines = [f"{self.count()} requests (seed {SEED}), {len(self.failures)} failures"]
        for label, counts in self.responses.items():
            parts = []
            for mode in MODES.values():
                by_status = {s: n for (m, s), n in sorted(counts.items()) if m == mode}
                if by_status:
                    each = ", ".join(f"{n} x {status}" for status, n in by_status.items())
                    parts.append(f"{sum(by_status.values())} {mode} ({each})")
            lines.append(f"  {label}: {'; '.join(parts)}")
        if self.incomplete_batches:
            lines.append(f"  incomplete batches: {self.incomplete_batches}")
        lines += [f"  failed: {label} {summary}" for label, summary in self.failures]
        return "\n".join(lines)
