"""The parameters in the paths and queries of endpoints, with the descriptions for OpenAPI."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

JobId = Annotated[str, Path(description="Id of a job, from the response of POST /v1/jobs.")]
MaskId = Annotated[
    str, Path(description="The mask_id in the response of an edit, a mask or a refinement.")
]
ModelId = Annotated[str, Path(description="A name of the served model, as GET /v1/models lists.")]
EditIndex = Annotated[int, Query(description="Which of the job's n edits; the first one is 0.")]
