"""What the client does with a response, and without one."""

import asyncio
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_registry_client import (
    Busy,
    Conflict,
    Invalid,
    NotFound,
    PreconditionFailed,
    RegistryError,
    RetryPolicy,
    ServerError,
    Unreachable,
    UsageError,
)
from model_registry_client.retries import reporting_outages
from model_registry_client.transport import Transport
from model_registry_client.urls import url_path
from tests.support.processes import free_port
from tests.support.proxy import BlackHole, CutBefore, Proxy, RandomReset, Refuse, SwallowReply
from tests.support.registering import WEIGHTS, register, register_version
from tests.support.scripted import IMPATIENT, QUICK, says, scripted
from tests.support.service import RunningService, ServiceWith

NEW_MODEL = {"name": "m"}


@asynccontextmanager
async def through_proxy(service: RunningService, policy: RetryPolicy = QUICK) -> AsyncIterator[tuple[Proxy, Transport]]:
    async with (
        Proxy.to(*service.address) as proxy,
        Transport(f"http://127.0.0.1:{proxy.port}", policy) as transport,
    ):
        yield proxy, transport


# Problems

PROBLEMS: dict[str, tuple[str, str, Any, type[ServerError], str, int]] = {
    "nothing there": ("GET", "/v1/models/none", None, NotFound, "model-not-found", 3),
    "no such route": ("GET", "/v1/nothing", None, NotFound, "no-such-route", 3),
    "taken": ("POST", "/v1/models", {"name": "taken"}, Conflict, "model-exists", 4),
    "a bad name": ("POST", "/v1/models", {"name": "-"}, Invalid, "invalid-field", 2),
    "a bad body": ("POST", "/v1/models", [], Invalid, "invalid-field", 2),
    "too many": ("GET", "/v1/models?limit=5000", None, Invalid, "invalid-request", 2),
}


@pytest.mark.parametrize(("method", "path", "body", "kind", "slug", "exit_code"), PROBLEMS.values(), ids=PROBLEMS)
async def test_a_problem_becomes_its_error(
    client: httpx.AsyncClient,
    service: RunningService,
    method: str,
    path: str,
    body: Any,
    kind: type[ServerError],
    slug: str,
    exit_code: int,
) -> None:
    await client.post("/v1/models", json={"name": "taken"})
    async with Transport(service.url, QUICK) as transport:
        with pytest.raises(ServerError) as raised:
            await transport.request(method, path, json=body)

    error = raised.value
    assert type(error) is kind
    assert (error.slug, error.exit_code, error.after_lost_answer) == (slug, exit_code, False)
    assert str(error) == error.problem.detail
    assert error.problem.instance == path.partition("?")[0]
    assert error.problem.request_id


async def test_a_refused_field_is_named(client: httpx.AsyncClient, service: RunningService) -> None:
    async with Transport(service.url, QUICK) as transport:
        with pytest.raises(Invalid) as raised:
            await transport.request("POST", "/v1/models", json={"name": "m", "tags": {"team": [1]}})

    (error,) = raised.value.problem.errors
    assert error.loc == ("body", "tags", "team")
    assert "team" in str(raised.value)


async def test_extension_members_are_kept(client: httpx.AsyncClient, service: RunningService) -> None:
    await register_version(client, "m", "1.0")
    await client.put("/v1/models/m/aliases/a", json={"version": "1.0"})
    async with Transport(service.url, QUICK) as transport:
        with pytest.raises(PreconditionFailed) as raised:
            await transport.request(
                "PUT", "/v1/models/m/aliases/a", json={"version": "1.0"}, headers={"If-None-Match": "*"}
            )

    assert raised.value.problem.model_extra is not None
    assert raised.value.problem.model_extra["version"] == "1.0"


@pytest.mark.parametrize("body", ["Go away", "<html><title>Go\naway</title><p>nginx</html>"])
async def test_an_error_that_is_not_a_problem_has_the_text_of_the_response(body: str) -> None:
    async with scripted(says(403, body)) as script, Transport(script.url, QUICK) as transport:
        with pytest.raises(ServerError) as raised:
            await transport.request("GET", "/v1/models")

    assert (raised.value.slug, raised.value.status) == ("", 403)
    assert str(raised.value) == f"{script.url} responded with 403 Whatever: Go away"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, "<html>"),
        (200, ""),
        (200, "[}"),
        (404, "<html><title>Error</title>"),
        (501, '{"detail": "Unsupported"}'),
        (404, '{"type": "urn:model-registry:problem:no-such-route", "status": 404}'),
    ],
)
async def test_another_server_is_reported_as_not_a_registry(status: int, body: str) -> None:
    async with scripted(says(status, body)) as script, Transport(f"{script.url}/docs", QUICK) as transport:
        with pytest.raises(RegistryError, match=r"/docs is not a model registry .*MODEL_REGISTRY_URL") as raised:
            await transport.get_json("/v1/models")

    assert (raised.value.exit_code, "<" in str(raised.value)) == (1, False)


@pytest.mark.parametrize("location", ["https://models.example.org/base/v1/models?limit=1", "//models.example.org/base"])
async def test_a_redirect_says_which_url_to_use(location: str) -> None:
    async with scripted(says(308, location=location)) as script, Transport(script.url) as transport:
        with pytest.raises(UsageError, match=r"use https?://models\.example\.org/base as the URL"):
            await transport.request("GET", "/v1/models")


# Retries


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_transient_status_is_retried(status: int) -> None:
    async with scripted(says(status), says(status), says(200)) as script, Transport(script.url, QUICK) as transport:
        response = await transport.request("POST", "/v1/models", json=NEW_MODEL)

    assert response.status_code == 200
    assert len(script.requests) == 3
    assert {request.rpartition(b"\r\n\r\n")[2] for request in script.requests} == {b'{"name":"m"}'}


@pytest.mark.parametrize("status", [400, 404, 409, 501])
async def test_a_final_status_is_not_retried(status: int) -> None:
    async with scripted(says(status)) as script, Transport(script.url, QUICK) as transport:
        with pytest.raises(RegistryError):
            await transport.request("GET", "/")

    assert len(script.requests) == 1


OVERLOADED = '{"type": "urn:model-registry:problem:overloaded", "status": 503}'


@pytest.mark.parametrize(
    ("answer", "count"),
    [(says(408), 2), (says(429), 2), (says(503, OVERLOADED), 2), (says(500), 1), (says(502), 1), (says(503), 1)],
)
async def test_a_request_that_is_not_idempotent_is_repeated_only_if_it_was_not_done(answer: bytes, count: int) -> None:
    async with scripted(answer, says(418)) as script, Transport(script.url, QUICK) as transport:
        with pytest.raises(ServerError):
            await transport.request("POST", "/", idempotent=False)

    assert len(script.requests) == count


@pytest.mark.parametrize(
    "retry_after", [lambda: "1", lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)]
)
async def test_retry_after_is_waited_for(retry_after: Callable[[], str]) -> None:
    async with (
        scripted(says(503, retry_after=retry_after()), says(200)) as script,
        Transport(script.url, QUICK) as asked,
    ):
        started = time.monotonic()
        await asked.request("GET", "/")

    assert time.monotonic() - started >= 0.9


async def test_an_outage_is_reported_once_until_the_server_responds() -> None:
    said: list[str] = []
    answers = says(503), says(502), says(200), says(500), says(200)
    async with scripted(*answers) as script, Transport(script.url, QUICK) as transport:
        with reporting_outages(said.append):
            for _ in range(2):
                await transport.request("GET", "/")
    async with Transport(f"http://127.0.0.1:{free_port()}", IMPATIENT) as nobody:
        with reporting_outages(said.append):
            await asyncio.gather(*(nobody.request("GET", "/") for _ in range(2)), return_exceptions=True)

    assert said == [
        f"{script.url} responds with 503 Whatever. Retrying for up to 20 s.",
        f"{script.url} responds with 500 Whatever. Retrying for up to 20 s.",
        f"No response from {nobody.url}. Retrying for up to 0.3 s.",
    ]


async def test_a_retry_after_beyond_the_policy_is_not_waited_for() -> None:
    async with scripted(says(503, retry_after="3600")) as script, Transport(script.url, QUICK) as transport:
        started = time.monotonic()
        with pytest.raises(Busy) as raised:
            await transport.request("GET", "/")

    assert time.monotonic() - started < 10
    assert raised.value.exit_code == 5


async def test_a_service_at_its_limit_is_waited_for(service_with: ServiceWith) -> None:
    service = await service_with(max_requests_in_flight=1)
    async with Transport(service.url, QUICK) as transport:

        async def refusals() -> str:
            lines = (await transport.request("GET", "/metrics")).text.splitlines()
            return "".join(line for line in lines if "requests_total" in line and 'status="503"' in line)

        before = await refusals()
        bodies = await asyncio.gather(*(transport.get_json("/v1/models") for _ in range(4)))

        assert bodies == [{"items": [], "next_page_token": None}] * 4
        assert await refusals() != before


async def test_a_busy_service_is_an_error_after_the_time_is_up() -> None:
    async with scripted(says(503)) as script, Transport(script.url, IMPATIENT) as transport:
        with pytest.raises(Busy):
            await transport.request("GET", "/")

    assert len(script.requests) > 3


# The network


async def test_resets_are_survived(client: httpx.AsyncClient, service: RunningService) -> None:
    async with through_proxy(service) as (proxy, transport):
        proxy.misbehave(RandomReset(0.3))
        for _ in range(20):
            assert (await transport.get_json("/v1/models"))["items"] == []

        assert proxy.struck > 0


async def test_a_request_that_was_never_sent_is_repeated_even_if_it_is_not_idempotent(
    client: httpx.AsyncClient, service: RunningService
) -> None:
    async with through_proxy(service) as (proxy, transport):
        proxy.misbehave(Refuse())
        with reporting_outages(lambda _: proxy.behave()):
            response = await transport.request("POST", "/v1/models", json=NEW_MODEL)

    assert response.status_code == 201


async def test_a_reset_of_a_request_that_is_not_idempotent_is_an_error(
    client: httpx.AsyncClient, service: RunningService
) -> None:
    async with through_proxy(service) as (proxy, transport):
        proxy.misbehave(CutBefore(b"POST"))
        with pytest.raises(Unreachable, match="may have been carried out"):
            await transport.request("POST", "/v1/models", json=NEW_MODEL, idempotent=False)

    assert (await client.get("/v1/models/m")).status_code == 404


async def test_after_a_lost_response_the_error_says_so(client: httpx.AsyncClient, service: RunningService) -> None:
    async with through_proxy(service) as (proxy, transport):
        proxy.misbehave(SwallowReply(b"POST"))
        with pytest.raises(Conflict, match="may have done it") as raised:
            await transport.request("POST", "/v1/models", json=NEW_MODEL)

        proxy.misbehave(SwallowReply(b"GET"))
        with pytest.raises(NotFound) as read:
            await transport.request("GET", "/v1/models/none")

    assert (raised.value.after_lost_answer, read.value.after_lost_answer) == (True, False)
    assert "may have done it" not in str(read.value)
    assert (await client.get("/v1/models/m")).status_code == 200


async def test_the_time_of_the_policy_begins_with_the_first_failure() -> None:
    policy = RetryPolicy(retry_seconds=0.2, first_contact_seconds=0.2, base_delay_seconds=0.01, timeout_seconds=15)
    async with scripted(b"", says(200)) as script, Transport(script.url, policy) as transport:
        script.pause_seconds = 0.4
        response = await transport.request("PUT", "/", content=b"large")

    assert (response.status_code, len(script.requests)) == (200, 2)


async def test_silence_is_not_waited_for_longer_than_the_timeout(
    client: httpx.AsyncClient, service: RunningService
) -> None:
    async with through_proxy(service, IMPATIENT) as (proxy, transport):
        await transport.request("GET", "/v1/models")
        proxy.misbehave(BlackHole())
        started = time.monotonic()
        with pytest.raises(
            Unreachable, match=f"No response from http://127.0.0.1:{proxy.port}: no data for 0.5 seconds"
        ):
            await transport.request("GET", "/v1/models")

    assert time.monotonic() - started < 5


async def test_an_unreachable_server_is_reported_with_its_url_and_what_to_do(unused_url: str) -> None:
    async with Transport(unused_url.replace("://", "://me:secret@"), IMPATIENT) as transport:
        with pytest.raises(Unreachable) as raised:
            await transport.request("GET", "/v1/models")

    assert str(raised.value).startswith(f"No response from {unused_url}: ")
    assert "MODEL_REGISTRY_URL" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert raised.value.exit_code == 5


async def test_a_server_that_never_responded_is_given_up_sooner(unused_url: str) -> None:
    async with Transport(unused_url, RetryPolicy(first_contact_seconds=0.2)) as transport:
        started = time.monotonic()
        with pytest.raises(Unreachable):
            await transport.request("GET", "/v1/models")
        with pytest.raises(Unreachable, match="through the registry: `proxied`"):
            await transport.raw("GET", f"{unused_url}/bucket/key")

    assert time.monotonic() - started < 10


async def test_an_untrusted_certificate_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to create a certificate")
    made = tmp_path / "made.pem"
    options = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=a -addext subjectAltName=IP:127.0.0.1"
    )
    where = ["-keyout", str(made), "-out", str(tmp_path / "cert.pem")]
    subprocess.run([openssl, *options.split(), *where], check=True, capture_output=True)  # noqa: ASYNC221 - it takes a moment
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert.pem", made)

    async with scripted(says(200), tls=tls) as script:
        async with Transport(script.url, QUICK) as transport:
            started = time.monotonic()
            with pytest.raises(Unreachable, match="SSL_CERT_FILE"):
                await transport.request("GET", "/")
            with pytest.raises(Unreachable, match="SSL_CERT_FILE"):
                async with transport.raw_stream("GET", script.url):
                    pytest.fail("the certificate is untrusted")
            assert time.monotonic() - started < 10
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        async with Transport(script.url, QUICK) as transport:
            assert (await transport.request("GET", "/")).status_code == 200
            async with transport.raw_stream("GET", script.url) as response:
                assert response.status_code == 200


@pytest.fixture
async def unused_url() -> str:
    """The URL of a port that nothing listens on."""
    async with scripted(says(200)) as script:
        return script.url


# Storage


async def test_storage_gets_the_exact_url_and_its_4xx_responses_are_returned() -> None:
    async with scripted(says(503), says(403, "<Error/>")) as script, Transport(script.url, QUICK) as transport:
        response = await transport.raw("PUT", f"{script.url}/b/k?X-Amz-Signature=a%2Fb%3D", content=b"bytes")

    assert (response.status_code, response.text) == (403, "<Error/>")
    assert len(script.requests) == 2
    assert script.requests[1].startswith(b"PUT /b/k?X-Amz-Signature=a%2Fb%3D HTTP/1.1\r\n")
    assert script.requests[1].endswith(b"\r\n\r\nbytes")


async def test_a_body_in_pieces_starts_again_in_each_attempt() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async with scripted(says(500), says(200)) as script, Transport(script.url, QUICK) as transport:
        await transport.raw("PUT", f"{script.url}/b/k", headers={"Content-Length": "6"}, content=pieces)

    assert [request.endswith(b"\r\n\r\nonetwo") for request in script.requests] == [True, True]


async def test_storage_that_keeps_failing_is_an_error() -> None:
    async with scripted(says(500, "<Error/>")) as script, Transport(script.url, IMPATIENT) as transport:
        with pytest.raises(ServerError, match=f"{script.url} responded with 500"):
            await transport.raw("GET", f"{script.url}/b/k?secret=1")


async def test_the_caller_reads_a_stream_and_gets_the_error_if_it_breaks() -> None:
    cut = says(200, "half").replace(b"content-length: 4", b"content-length: 8")
    async with scripted(cut) as script, Transport(script.url, QUICK) as transport:
        async with transport.raw_stream("GET", f"{script.url}/b/k") as response:
            with pytest.raises(httpx.RemoteProtocolError):
                await response.aread()
        async with transport.stream("GET", "/k", read=False) as response:
            with pytest.raises(httpx.RemoteProtocolError):
                await response.aread()
        assert len(script.requests) == 2


# Paths


def test_a_segment_is_encoded() -> None:
    assert url_path("a b", "1.0+x", "@c", "d/e", "ü%") == "/a%20b/1.0%2Bx/%40c/d%2Fe/%C3%BC%25"


@pytest.mark.parametrize("segment", ["", ".", ".."])
def test_an_empty_segment_or_dots_are_refused(segment: str) -> None:
    with pytest.raises(RegistryError, match="not a valid name"):
        url_path("a", segment)


async def test_no_signature_is_logged(
    client: httpx.AsyncClient, service: RunningService, caplog: pytest.LogCaptureFixture
) -> None:
    await register(client, {"model_name": "m", "version": "1"})
    caplog.set_level("INFO", "httpx")
    signed = (await client.post("/v1/models/m/versions/1/download_url", json={})).json()["url"]
    async with Transport(service.url, QUICK) as transport:
        assert (await transport.raw("GET", signed)).content == WEIGHTS

    said = [record.getMessage() for record in caplog.records if record.name == "httpx"]
    assert any(httpx.URL(signed).path in line for line in said)
    assert "X-Amz" not in "".join(said)
