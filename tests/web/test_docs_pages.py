"""Swagger UI and ReDoc in a real browser that can reach only the service."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, ConsoleMessage, Locator, Page, Request, async_playwright, expect

from tests.support.registering import WEIGHTS, register
from tests.support.service import RunningService

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    # No name has an address: what another host would serve is not there.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install one to test the docs pages")


class Visit:
    """A page and the errors on it."""

    def __init__(self, page: Page, service: RunningService) -> None:
        self.page = page
        self.troubles: list[str] = []
        self._url = service.url
        page.context.on("request", self._on_request)
        page.context.on("console", self._on_console)
        page.context.on("weberror", lambda error: self.troubles.append(f"page error: {error.error}"))

    async def open(self, path: str) -> None:
        await self.page.goto(f"{self._url}{path}")

    async def operation(self, operation_id: str, tag: str = "registry") -> Locator:
        """Open an operation of Swagger UI, ready to execute."""
        operation = self.page.locator(f"#operations-{tag}-{operation_id}")
        await operation.locator(".opblock-summary-control").click()
        await operation.get_by_role("button", name="Try it out").click()
        return operation

    async def execute(self, operation: Locator, status: int) -> str:
        """Press the button, wait for this status, and return the body that the page shows."""
        await operation.get_by_role("button", name="Execute").click()
        answer = operation.locator(".live-responses-table tr.response")
        await expect(answer.locator(".response-col_status")).to_contain_text(str(status))
        body = answer.locator(".response-col_description").locator("pre").first
        return await body.inner_text()

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((f"{self._url}/", f"blob:{self._url}/", "data:")):
            self.troubles.append(f"request to another host: {request.url}")

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.troubles.append(f"console: {message.text}")


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


@asynccontextmanager
async def visiting(browser: Browser, service: RunningService) -> AsyncIterator[Visit]:
    async with await browser.new_context(viewport={"width": 1280, "height": 1000}) as context:
        context.set_default_timeout(30_000)
        yield Visit(await context.new_page(), service)


@pytest.fixture
async def visit(browser: Browser, service: RunningService, client: httpx.AsyncClient) -> AsyncIterator[Visit]:
    """A page of an empty registry. The test fails if the page has errors."""
    async with visiting(browser, service) as visit:
        yield visit
        assert visit.troubles == []


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.joblib"
    path.write_bytes(WEIGHTS)
    return path


@needs_browser
async def test_a_model_is_registered_and_found_with_swagger_ui(
    visit: Visit, client: httpx.AsyncClient, model_file: Path
) -> None:
    await visit.open("/docs")
    form = await visit.operation("register_model")
    await form.locator("[data-property-name=model_name] input[type=text]").fill("iris-classifier")
    await form.locator("[data-property-name=version] input[type=text]").fill("1.0.0")
    await form.locator("[data-property-name=model_params] input[type=text]").fill('{"C": 10}')
    async with visit.page.expect_file_chooser() as choosing:
        await form.locator("[data-property-name=model_file] input[type=file]").click()
    await (await choosing.value).set_files(model_file)

    registered = json.loads(await visit.execute(form, 201))

    assert (registered["model_name"], registered["version"]) == ("iris-classifier", "1.0.0")
    assert registered["model_params"] == {"C": 10}
    assert [(file["path"], file["size_bytes"]) for file in registered["files"]] == [("model.joblib", len(WEIGHTS))]
    assert (await client.get("/get_model/iris-classifier/1.0.0")).content == WEIGHTS

    question = await visit.operation("get_model_info")
    await question.locator("[data-param-name=model_name] input").fill("iris-classifier")
    await question.locator("[data-param-name=version] input").fill("latest")

    assert json.loads(await visit.execute(question, 200)) == registered


@needs_browser
async def test_what_the_forms_hold_at_first_can_be_executed(visit: Visit, client: httpx.AsyncClient) -> None:
    example = {"model_name": "fraud-detector", "version": "2.4.0"}
    registered = (await register(client, example)).json()
    await visit.open("/docs")

    answers: dict[str, Any] = {}
    for operation_id in ("get_latest_model_info", "list_models", "get_model", "head_model", "remove_model"):
        answers[operation_id] = await visit.execute(await visit.operation(operation_id), 200)

    assert json.loads(answers["get_latest_model_info"]) == registered
    assert [row["digest"] for row in json.loads(answers["list_models"])] == [registered["digest"]]
    assert f"content-length: {len(WEIGHTS)}" in answers["get_model"]
    assert f"content-length: {len(WEIGHTS)}" in answers["head_model"]
    assert json.loads(answers["remove_model"])["state"] == "removed"


@needs_browser
async def test_several_files_are_registered_with_swagger_ui(visit: Visit, model_file: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("ok\nfraud\n")
    await visit.open("/docs")
    form = await visit.operation("register_model")
    await form.get_by_role("button", name="Add string item").click()
    for picker, path in zip(await form.locator("input[type=file]").all(), (model_file, labels), strict=True):
        await picker.set_input_files(path)

    registered = json.loads(await visit.execute(form, 201))

    assert [file["path"] for file in registered["files"]] == ["labels.txt", "model.joblib"]


@needs_browser
async def test_a_forgotten_file_is_no_version_but_a_problem_to_read(visit: Visit, client: httpx.AsyncClient) -> None:
    await visit.open("/docs")
    form = await visit.operation("register_model")

    problem = json.loads(await visit.execute(form, 422))

    assert problem["detail"] == "model_file: a file part is expected, with a filename"
    assert (await client.get("/list_models")).json() == []
    # The browser itself reports every answer of 400 and above.
    reported = [trouble for trouble in visit.troubles if "the server responded with a status of 422" in trouble]
    assert visit.troubles == reported
    visit.troubles.clear()


@needs_browser
async def test_redoc_shows_and_finds_every_operation(visit: Visit, client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    summaries = {operation["summary"] for path in document["paths"].values() for operation in path.values()}

    await visit.open("/redoc")
    await expect(visit.page.get_by_role("heading", name=document["info"]["title"])).to_be_visible()
    headings = await visit.page.locator("h2").all_inner_texts()
    await visit.page.get_by_placeholder("Search").fill("download")
    await expect(visit.page.get_by_role("search")).to_contain_text("Download a model")

    assert summaries <= {heading.strip() for heading in headings}
    assert await visit.page.locator("img").count() == 0


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_a_page_names_only_what_the_service_serves(client: httpx.AsyncClient, path: str) -> None:
    page = await client.get(path)

    assert page.headers["content-type"].startswith("text/html")
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    named = re.findall(r"""(?:src|href|spec-url|url)\s*[=:]\s*["']([^"']+)["']""", page.text)
    assert len(named) >= 3
    for address in named:
        assert address.startswith("/")
        assert (await client.get(address)).status_code == 200
    favicon = await client.get(next(address for address in named if "favicon" in address))
    assert favicon.headers["content-type"] == "image/png"


async def test_redoc_comes_without_the_picture_that_it_would_load_from_elsewhere(client: httpx.AsyncClient) -> None:
    path = "/docs-assets/redoc.standalone.js"
    script = await client.get(path)
    again = await client.get(path, headers={"If-None-Match": script.headers["etag"]})
    head = await client.head(path)

    assert script.headers["content-type"].startswith("text/javascript")
    assert 'src:"data:,"' in script.text
    assert "cdn.redoc" not in script.text
    assert (again.status_code, again.content) == (304, b"")
    assert head.headers["content-length"] == script.headers["content-length"]


async def test_the_pages_work_behind_a_prefix(service: RunningService, client: httpx.AsyncClient) -> None:
    behind = httpx.ASGITransport(service.app, root_path="/registry")
    async with httpx.AsyncClient(transport=behind, base_url=service.url) as prefixed:
        swagger_ui = (await prefixed.get("/registry/docs")).text
        redoc = (await prefixed.get("/registry/redoc")).text
        document = (await prefixed.get("/registry/openapi.json")).json()

    assert "url: '/registry/openapi.json'" in swagger_ui
    assert 'src="/registry/docs-assets/swagger-ui-bundle.js"' in swagger_ui
    assert 'spec-url="/registry/openapi.json"' in redoc
    assert document["servers"] == [{"url": "/registry"}]


@needs_browser
async def test_the_watch_on_a_page_sees_what_it_should(
    browser: Browser, service: RunningService, client: httpx.AsyncClient, sample_model_info: dict[str, Any]
) -> None:
    await register(client, sample_model_info)
    async with visiting(browser, service) as visit:
        await visit.open("/docs")
        await visit.page.evaluate(
            "document.body.append(Object.assign(new Image(), {src: 'https://example.org/x.png'}))"
        )
        await visit.page.evaluate("setTimeout(() => { throw new Error('boo') })")
        expected = ("request to another host: https://example.org/x.png", "console: ", "page error: ")

        async with asyncio.timeout(10):
            while not all(any(each in trouble for trouble in visit.troubles) for each in expected):
                await visit.page.wait_for_timeout(50)

        assert any(trouble.startswith("page error: ") and "boo" in trouble for trouble in visit.troubles)


async def test_the_front_door_leads_to_the_docs(client: httpx.AsyncClient) -> None:
    response = await client.get("/")

    assert (response.status_code, response.headers["location"]) == (307, "/docs")
