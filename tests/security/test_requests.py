"""C: the claimed origin and destination of a request (T52-T59). Tests of tokens wait for tokens."""

import ast
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

import model_registry
from model_registry.web.middleware import PROBES
from tests.security.conftest import Outside, Watch
from tests.security.routes import DESCRIBED, JSON, ROUTES, WITH_JSON, arrange
from tests.support.bucket import Bucket
from tests.support.problems import assert_problem
from tests.support.pushing import entry
from tests.support.rawhttp import message
from tests.support.rawhttp import send as send_raw
from tests.support.service import ServiceWith

ODD_HOSTS = ["x/healthz?", "a@b", "registry/..", "evil.example:80:80", "[::1", "x y", "%00", "\xff", "<script>", ""]


async def test_an_odd_host_leads_nowhere_else(client: httpx.AsyncClient, watch: Watch) -> None:
    """T52: the path alone selects the route. If every host is allowed, an odd one changes nothing."""
    await arrange(client)
    await watch.arranged()

    for route in ROUTES:
        if route.method != "GET" or route.path in PROBES:
            continue
        as_ever = await watch.raw(route.message())
        assert as_ever is not None
        for host in ODD_HOSTS:
            odd = await watch.raw(message("GET", route.target(), [f"Host: {host}"]))

            assert odd is not None
            assert odd.status_code in {as_ever.status_code, 400}, (route.name, host)


@pytest.mark.parametrize("host", ODD_HOSTS)
async def test_an_odd_host_is_in_no_address(client: httpx.AsyncClient, watch: Watch, host: str) -> None:
    """T52: the URL for files that pass through the service is the only one that contains a request's Host."""
    body = b'{"version": "1.0", "files": [], "transfer": "proxied"}'
    lines = [f"Host: {host}", f"Content-Type: {JSON}", f"Content-Length: {len(body)}"]

    answer = await watch.raw(message("POST", "/v1/models/fraud/versions", lines, body))
    await watch.arranged()

    assert answer is not None
    assert answer.status_code in {201, 400}, answer.text


async def test_no_host_but_ours_is_answered_by_any_route(
    service_with: ServiceWith, client: httpx.AsyncClient, watch: Watch
) -> None:
    """T53: except by the probes, which use the address of a machine."""
    service = await service_with(allowed_hosts="registry")
    await arrange(client)
    await watch.arranged()

    for route in ROUTES:
        if route.path in PROBES:
            continue
        for host in ("evil.example", "registry.evil.example", "registry@evil"):
            answer = await watch.raw(message(route.method, route.target(), [f"Host: {host}"]), at=service)

            assert answer is not None
            assert answer.status_code == 400, (route.name, host)


def test_no_rule_looks_at_the_address_as_a_whole() -> None:
    """T52: `request.url` contains the Host header, which a client chooses freely, so no rule may depend on it."""
    wanted = {"url", "base_url", "url_for"}
    found = {
        (path.name, ast.unparse(node))
        for path in Path(model_registry.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in wanted and ast.unparse(node.value) == "request"
    }

    # The first is a URL in a response. The second belongs to a request that we send, not to one that came.
    assert found == {("pushes.py", "request.base_url"), ("pushes.py", "request.url")}


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "text/plain; json"])
async def test_no_route_takes_json_from_a_page_of_another_site(
    client: httpx.AsyncClient, watch: Watch, content_type: str
) -> None:
    """T54: a body that a browser sends without a preflight is not read as JSON, and a page may read no response."""
    await arrange(client)
    await watch.arranged()

    for route in WITH_JSON:
        body = (route.body[0] if route.id != "register_model" else b"{}", content_type)
        if route.example == {}:
            continue
        answer = await watch.raw(route.message(None, "Origin: https://evil.example", body=body))

        assert_problem(answer, 415, slug="unsupported-media-type")
        assert answer is not None
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_no_page_of_another_site_changes_anything(client: httpx.AsyncClient, watch: Watch) -> None:
    """T54: a browser sends a form, or an empty body, without a preflight. It says which site the page is from."""
    await arrange(client)
    await watch.arranged()

    foreign = "Sec-Fetch-Site: cross-site"
    for route in ROUTES:
        if route.method not in {"GET", "HEAD"}:
            assert_problem(await watch.raw(route.message(None, foreign)), 400, slug="bad-request")
    # Following a link to the docs or to a file changes nothing.
    assert (await client.get("/docs", headers={"Sec-Fetch-Site": "cross-site"})).status_code == 200


async def test_no_other_site_is_told_that_it_may(client: httpx.AsyncClient, watch: Watch) -> None:
    """T54: neither a preflight nor a response allows it, and no cookie is ever set."""
    await arrange(client)
    await watch.arranged()
    asking = ["Origin: https://evil.example", "Access-Control-Request-Method: PUT", "Cookie: a=b"]

    for route in ROUTES:
        answers = [await watch.raw(message("OPTIONS", route.target(), ["Host: registry", *asking]))]
        if route.method == "GET" and route.path not in PROBES:
            answers.append(await watch.raw(route.message(None, *asking)))
        for answer in answers:
            assert answer is not None
            assert not [name for name in answer.headers if name.startswith(("access-control-", "set-cookie"))]


SPOOFED = [
    "X-Forwarded-For: 10.0.0.1",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Prefix: /evil",
    "X-Forwarded-User: admin",
    "Forwarded: for=10.0.0.1;host=evil.example;proto=https",
    "X-Original-URL: /remove_model/fraud/1.0",
    "X-Rewrite-URL: /remove_model/fraud/1.0",
    "X-Remote-User: admin",
    "kubeflow-userid: admin@example.org",
]


async def test_what_a_proxy_would_say_is_not_believed(
    outside: Outside, client: httpx.AsyncClient, watch: Watch
) -> None:
    """T55: headers about the origin of a request, its sender or its first destination are ignored for every client."""
    body = b'{"version": "2.0", "files": [%s], "transfer": "proxied"}' % (
        str(entry("a", b"a")).replace("'", '"').encode()
    )
    length = [f"Content-Type: {JSON}", f"Content-Length: {len(body)}"]
    await arrange(client)

    pushed = await send_raw(
        outside.address, message("POST", "/v1/models/fraud/versions", ["Host: registry", *length, *SPOOFED], body)
    )
    read = await send_raw(outside.address, message("GET", "/get_model_info/fraud/1.0", ["Host: registry", *SPOOFED]))
    docs = await send_raw(outside.address, message("GET", "/docs", ["Host: registry", *SPOOFED]))
    events = (await client.get("/v1/events")).json()["items"]
    await watch.arranged()

    assert pushed is not None
    assert pushed.status_code == 201
    assert pushed.json()["uploads"][0]["url"] == "http://registry/v1/models/fraud/versions/2.0/files/a"
    assert {event["actor"] for event in events} | {pushed.json().get("created_by")} == {"anonymous"}
    assert read is not None
    assert read.status_code == 200
    assert docs is not None
    assert "evil" not in docs.text


@pytest.mark.parametrize(
    "override", ["X-HTTP-Method-Override: DELETE", "X-HTTP-Method: DELETE", "X-Method-Override: DELETE"]
)
async def test_a_method_is_what_the_request_line_says(client: httpx.AsyncClient, watch: Watch, override: str) -> None:
    """T56."""
    await arrange(client)
    await watch.arranged()

    for target in ("/remove_model/fraud/1.0", "/v1/models/fraud/versions/1.0", "/v1/models/fraud/aliases/champion"):
        for method in ("GET", "POST"):
            for query in ("", "?_method=DELETE"):
                await watch.raw(message(method, target + query, ["Host: registry", override, "Content-Length: 0"]))
    assert (await client.get("/get_model_info/fraud/@champion")).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/webhooks", "/v1/import", "/v1/models/fraud/webhooks", "/v1/registries", "/proxy"]
)
async def test_nothing_makes_the_service_fetch(client: httpx.AsyncClient, watch: Watch, path: str) -> None:
    """T58: no route accepts a URL of another server."""
    answer = await client.post(path, json={"url": "http://169.254.169.254/latest/meta-data"})

    assert_problem(answer, 404)
    assert not [route for route in DESCRIBED if {"url", "callback", "uri"} & set(route.parameters("query"))]


def signed_urls(tree: Any) -> list[str]:
    """Return all URLs in a response that have a signature."""
    match tree:
        case str() if "X-Amz-Signature" in tree:
            return [tree]
        case dict():
            return [url for value in tree.values() for url in signed_urls(value)]
        case list():
            return [url for value in tree for url in signed_urls(value)]
        case _:
            return []


async def test_every_signed_address_is_of_the_store_and_kept_by_nobody(
    service_with: ServiceWith, client: httpx.AsyncClient, watch: Watch, bucket: Bucket
) -> None:
    """T59, T79 and T82: its host is in the settings, its life is short, and caches and other sites never see it."""
    service = await service_with(multipart_threshold_bytes=100)
    await arrange(client)
    store = httpx.URL(bucket.client.meta.endpoint_url).netloc.decode()
    push = {"version": "2.0", "files": [entry("small", b"a"), entry("large", b"a" * 200)]}
    evil = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}

    async with httpx.AsyncClient(base_url=service.url, headers=evil) as other:
        fresh = await other.post("/v1/models/fraud/versions", json=push)
        upload_id = next(each["upload_id"] for each in fresh.json()["uploads"] if each["upload_id"])
        answers = {
            "a redirect": await other.get("/get_model/fraud/1.0?redirect=true"),
            "a redirect to a file": await other.get("/v1/models/fraud/versions/1.0/files/model.bin?redirect=true"),
            "a download URL": await other.post("/v1/models/fraud/versions/1.0/download_url", json={}),
            "a manifest": await other.get("/v1/models/fraud/versions/1.0/files?presign=true"),
            "a push": fresh,
            "a push once more": await other.post("/v1/models/fraud/versions", json=push),
            "parts": await other.post(f"/v1/uploads/{upload_id}/parts", json={"part_numbers": [1]}),
        }
    await watch.arranged()

    for name, answer in answers.items():
        urls = signed_urls([answer.headers.get("location", ""), answer.json() if answer.content else None])
        assert urls, (name, answer.text)
        for url in urls:
            assert urlsplit(url).netloc == store, name
            assert int(parse_qs(urlsplit(url).query)["X-Amz-Expires"][0]) <= 900, name
        assert answer.headers["cache-control"] == "no-store", name
        assert answer.headers["referrer-policy"] == "no-referrer", name
