"""The cost of FastAPI itself: one endpoint that returns an existing model."""

from datetime import UTC, datetime

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI(openapi_url=None)


class Info(BaseModel):
    model_name: str
    version: str
    number: int
    state: str
    digest: str
    size_bytes: int
    created_at: datetime
    model_params: dict[str, float]
    tags: dict[str, str]


INFO = Info(
    model_name="fraud-detector",
    version="1.0.0",
    number=1,
    state="ready",
    digest="sha256:" + 64 * "0",
    size_bytes=1_000_000,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    model_params={"C": 1.0, "max_iter": 100.0},
    tags={"team": "risk", "stage": "prod"},
)


@app.get("/")
async def info() -> Info:
    return INFO
