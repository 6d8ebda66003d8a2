"""Conditional requests, as every route handles them."""

import httpx


async def test_a_condition_in_several_headers_is_one_list(client: httpx.AsyncClient) -> None:
    created = await client.post("/v1/models", json={"name": "resnet"})
    unknown, known = ("If-None-Match", '"other"'), ("If-None-Match", created.headers["etag"])

    response = await client.get("/v1/models/resnet", headers=[unknown, known])

    assert response.status_code == 304
