"""A service that asks FedLAS about every case, and goes on without it: `POST /triage {"row": […]}`.

It accepts the model's label where FedLAS promises that at most 5 % of the accepted ones are wrong. Everything else goes
to a person: answers below the promise's threshold, and all cases while FedLAS is away, too slow or overloaded. The
client tries 429 and 503 again as `Retry-After` says, as often as `max_retries` allows and the deadline leaves time for.

    pip install 'fedlas[client]' fastapi uvicorn
    FEDLAS_URL=http://127.0.0.1:8000 FEDLAS_MODEL=mine uvicorn consumer:app --port 9000
    curl -s 127.0.0.1:9000/triage -H 'Content-Type: application/json' -d '{"row": [0.3, -1.2, 0.8, 0.1]}'

The promise needs guarantee rows, which a dataset without a column `split` gives by itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel

from fedlas.client import AsyncClient, ClientError

MODEL = os.environ.get("FEDLAS_MODEL", "mine")
MAX_ERROR = 0.05
#: An answer that takes longer, with all tries, is of no use to whoever waits for this service.
DEADLINE_S = 3.0
_LOG = logging.getLogger("uvicorn.error")


class Case(BaseModel):
    """One row, as the model takes it."""

    row: list[float]


class Decision(BaseModel):
    """The action on a case; the label of one that is reviewed is a suggestion, where there is any."""

    action: Literal["accept", "review"]
    reason: str
    label: str | None = None
    confidence: float | None = None


@asynccontextmanager
async def _client(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncClient(max_retries=2) as app.state.fedlas:  # FEDLAS_URL and FEDLAS_API_KEY name the service
        yield


app = FastAPI(lifespan=_client)


@app.post("/triage")
async def triage(case: Case, request: Request) -> Decision:
    """Accept the model's label, or have a person look at the case."""
    fedlas: AsyncClient = request.app.state.fedlas
    try:
        answers = await fedlas.predict(MODEL, [case.row], deadline=DEADLINE_S, max_error=MAX_ERROR, probabilities=False)
    except ClientError as error:
        if (error.field or "").startswith("inputs"):  # this case is wrong; everything else is between us and FedLAS
            raise HTTPException(422, str(error)) from error
        _LOG.warning("FedLAS gives no answer (%s): %s", error.code, error)
        return Decision(action="review", reason=error.code)
    (answer,) = answers
    certain = {"label": answer.label, "confidence": answer.confidence}
    if answer.abstain:
        return Decision(action="review", reason="below_threshold", **certain)
    return Decision(action="accept", reason="promised", **certain)
