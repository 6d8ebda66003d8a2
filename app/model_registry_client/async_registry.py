"""The registry for asynchronous code: one method for each operation of the service.

`Registry` in registry.py is generated from `AsyncRegistry` by `make format`.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from enum import Enum
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from model_registry_client.errors import Conflict, NotFound, PreconditionFailed, UsageError
from model_registry_client.json_values import dumps
from model_registry_client.progress import Progress, Silent
from model_registry_client.retries import RetryPolicy
from model_registry_client.settings import Settings
from model_registry_client.transport import Params, Transport
from model_registry_client.types import (
    LATEST,
    Alias,
    AliasMove,
    DownloadUrl,
    Event,
    File,
    Model,
    Pulled,
    Pushed,
    Ref,
    Transfer,
    Version,
)
from model_registry_client.urls import url_path

T = TypeVar("T")
V = TypeVar("V", bound=BaseModel)

MERGE_PATCH = "application/merge-patch+json"


class Unset(Enum):
    """The value of an argument that was not given. `None` removes a value."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


class Pages(AsyncIterator[T]):
    """Iterates once over the items of a list. Each page is fetched when its first item is needed."""

    def __init__(self, fetch: Callable[[str | None], Awaitable[tuple[Sequence[T], str | None]]]) -> None:
        self._fetch = fetch
        self._token: str | None = None
        self._left: deque[T] = deque()
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._left:
            if self._is_over:
                raise StopAsyncIteration
            self._left.extend(await self.next_page())
        return self._left.popleft()

    async def next_page(self) -> Sequence[T]:
        """Fetch the next page; empty after the last one. Do not mix this with iteration over the items."""
        if self._is_over:
            return ()
        items, self._token = await self._fetch(self._token)
        self._is_over = self._token is None
        return items

    @property
    def is_over(self) -> bool:
        """Whether the last page has been fetched."""
        return self._is_over


class AsyncRegistry:
    """A client of the registry at `url`, or at the URL in the settings. Use it in `async with`, or call `aclose`.

    Every method raises `Unreachable` if there is no response, and a `ServerError` if the response is an error.
    A `ref` is a `Ref` or its text: `fraud`, `fraud:2.4.0`, `fraud@champion`. To change a version, name its label.
    """

    def __init__(
        self, url: str | None = None, *, settings: Settings | None = None, policy: RetryPolicy | None = None
    ) -> None:
        self.settings = settings or Settings.load(url=url)
        self.transport = Transport(url or self.settings.url, policy or _policy(self.settings))

    @property
    def base_url(self) -> str:
        """The URL of the registry, without a slash at the end."""
        return self.transport.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self.transport.aclose()

    def models(
        self, search: str | None = None, tags: Mapping[str, object] | None = None, *, page_size: int = 1000
    ) -> Pages[Model]:
        """List models by name. `search` is a part of the name, in any case; a model must have all `tags`."""
        with_tags = {f"tag.{key}": _tag(value) for key, value in (tags or {}).items()}
        return self._pages(lambda: _done("/v1/models"), Model, {"search": search, "limit": page_size, **with_tags})

    async def model(self, name: str) -> Model:
        """Return a model."""
        return self._read(Model, await self.transport.request("GET", _model(name)))

    async def create_model(
        self, name: str, *, description: str | None = None, tags: Mapping[str, object] | None = None
    ) -> Model:
        """Create a model without versions. The first push also creates it. Raises `Conflict` if it exists."""
        body = {"name": name, "description": description, "tags": dict(tags or {})}
        try:
            return self._read(Model, await self.transport.request("POST", "/v1/models", json=body))
        except Conflict as error:
            if error.slug == "model-exists" and error.after_lost_answer:
                found = await self.model(name)
                if (found.description, found.tags, found.version_count) == (description, body["tags"], 0):
                    return found
            raise

    async def update_model(
        self,
        name: str,
        *,
        description: str | Unset | None = UNSET,
        tags: Mapping[str, object] | Unset = UNSET,
        if_match: str | None = None,
    ) -> Model:
        """Edit a model. Only the given arguments change; a tag that is `None` is removed.

        With `if_match`, an `etag` that you read, the edit raises `PreconditionFailed` if the model has changed since.
        """
        patch = _given(description=description, tags=tags)
        return self._read(Model, await self._patch(_model(name), patch, if_match))

    async def delete_model(self, name: str) -> None:
        """Delete a model that never had a version. Raises `Conflict` for any other model."""
        await self._delete(_model(name), "model-not-found")

    def versions(
        self, name: str, state: str = "ready", order: str = "precedence", *, page_size: int = 100
    ) -> Pages[Version]:
        """List the versions of a model, newest first: by `precedence` of their labels, or as they were `created`."""
        params: Params = {"state": state, "order": order, "limit": page_size}
        return self._pages(lambda: _done(f"{_model(name)}/versions"), Version, params)

    def search(
        self,
        filter: str | None = None,  # noqa: A002 - as the API has it
        order_by: str | None = None,
        *,
        page_size: int = 100,
    ) -> Pages[Version]:
        """Search the versions of all models. An example of a filter:

        `additional_metadata.metrics.auc >= 0.9 AND tags.team = 'risk'`
        """
        params: Params = {"filter": filter, "order_by": order_by, "limit": page_size}
        return self._pages(lambda: _done("/v1/versions"), Version, params)

    async def version(self, ref: Ref | str) -> Version:
        """Return a version. A label also finds a version that is still being pushed; see its `state`."""
        return self._read(Version, await self.transport.request("GET", _version(Ref.of(ref))))

    async def update(
        self,
        ref: Ref | str,
        *,
        description: str | Unset | None = UNSET,
        tags: Mapping[str, object] | Unset = UNSET,
        additional_metadata: Mapping[str, object] | Unset = UNSET,
        if_match: str | None = None,
    ) -> Version:
        """Edit a version. Only the given members change; a member that is `None` or NaN is removed.

        All other fields of a version are frozen. With `if_match`, an `etag` that you read, the edit raises
        `PreconditionFailed` if the version has changed since.
        """
        patch = _given(description=description, tags=tags, additional_metadata=additional_metadata)
        return self._read(Version, await self._patch(_label(ref), patch, if_match))

    async def yank(self, ref: Ref | str, reason: str | None = None) -> Version:
        """Yank a version. It is no longer the latest, but you can still use it by name."""
        return await self._act(_label(ref), "yank", {"reason": reason})

    async def unyank(self, ref: Ref | str) -> Version:
        """Undo a yank. The version can be the latest again."""
        return await self._act(_label(ref), "unyank")

    async def restore(self, ref: Ref | str) -> Version:
        """Restore a removed version. Raises `Conflict` if it is purged."""
        return await self._act(_label(ref), "restore")

    async def remove(self, ref: Ref | str, purge: bool = False, force: bool = False) -> Version:
        """Remove a version.

        `purge` permanently deletes its bytes. `force` also removes the aliases that point at it; without it they raise
        `Conflict`.
        """
        path = _label(ref)
        params = {"purge": _flag(purge), "force": _flag(force)}
        return self._read(Version, await self.transport.request("DELETE", path, params=params))

    def aliases(self, name: str, *, page_size: int = 1000) -> Pages[Alias]:
        """List the aliases of a model."""
        return self._pages(lambda: _done(f"{_model(name)}/aliases"), Alias, {"limit": page_size})

    async def alias(self, name: str, alias: str, *, at: str | None = None) -> Alias:
        """Return an alias as it is now, or as it was `at` an RFC 3339 time."""
        return self._read(Alias, await self.transport.request("GET", _alias(name, alias), params={"at": at}))

    async def alias_set(
        self,
        name: str,
        alias: str,
        version: str,
        *,
        expected_generation: int | None = None,
        create_only: bool = False,
    ) -> Alias:
        """Create an alias, or move it, to the version with this label.

        With `expected_generation` the alias must not have moved since; with `create_only` it must not exist. Otherwise
        the call raises `PreconditionFailed`, and its `problem` says where the alias points. Without either, the last
        call wins.
        """
        headers = _if_generation(expected_generation) | ({"If-None-Match": "*"} if create_only else {})
        try:
            response = await self.transport.request(
                "PUT", _alias(name, alias), json={"version": version}, headers=headers
            )
        except PreconditionFailed as error:
            # An attempt whose response was lost may have moved the alias. Then the condition fails because of it.
            if error.after_lost_answer and (now := await self.alias(name, alias)).version == version:
                return now
            raise
        return self._read(Alias, response)

    async def alias_remove(self, name: str, alias: str, *, expected_generation: int | None = None) -> None:
        """Remove an alias. Its version and its history stay."""
        await self._delete(_alias(name, alias), "alias-not-found", _if_generation(expected_generation))

    async def alias_rollback(self, name: str, alias: str, *, expected_generation: int | None = None) -> Alias:
        """Move an alias back to its previous version. A second rollback undoes the first.

        The alias moves only from its present generation, or from `expected_generation`. So a request that is repeated
        after a lost response does not undo itself.
        """
        generation = expected_generation or (await self.alias(name, alias)).generation
        headers = _if_generation(generation)
        return self._read(
            Alias, await self.transport.request("POST", f"{_alias(name, alias)}/rollback", headers=headers)
        )

    def alias_history(self, name: str, alias: str, *, page_size: int = 1000) -> Pages[AliasMove]:
        """List the moves of an alias, newest first. This also works for an alias that was removed."""
        return self._pages(lambda: _done(f"{_alias(name, alias)}/history"), AliasMove, {"limit": page_size})

    async def swap(self, name: str, moves: Iterable[Mapping[str, str | None]]) -> list[Alias]:
        """Move several aliases in one step: all of them or none.

        A move is `{"alias": …, "version": …}`. With `"expected_version"` the alias must point there before the move;
        `None` means that it must not exist.
        """
        body = {"moves": [dict(move) for move in moves]}
        response = await self.transport.request("POST", f"{_model(name)}/aliases:swap", json=body)
        aliases, _ = self._page(Alias, self.transport.json_of(response))
        return aliases

    def files(self, ref: Ref | str, *, presign: bool = False, page_size: int = 1000) -> Pages[File]:
        """List all files of a version, by path. With `presign` each has a `url` that needs no credentials."""

        async def path() -> str:
            wanted = Ref.of(ref)
            # Resolve an alias once: it may move between two pages.
            is_label = wanted.selector != LATEST and not wanted.selector.startswith("@")
            return f"{_version(wanted if is_label else (await self.version(wanted)).ref)}/files"

        return self._pages(path, File, {"presign": _flag(presign), "limit": page_size})

    async def download_url(
        self, ref: Ref | str, path: str | None = None, expires_in_seconds: int | None = None
    ) -> DownloadUrl:
        """Return a URL of one file, which needs no credentials. If the version has one file, you can omit `path`."""
        body = {"path": path, "expires_in_seconds": expires_in_seconds}
        response = await self.transport.request("POST", f"{_version(Ref.of(ref))}/download_url", json=body)
        return self._read(DownloadUrl, response)

    def url(self, ref: Ref | str, path: str | None = None) -> str:
        """Return the URL of a version in the registry, or of one of its files. Sends no request."""
        where = f"{self.base_url}{_version(Ref.of(ref))}"
        return where if path is None else f"{where}/files{url_path(*path.split('/'))}"

    def events(self, after: str | None = None, *, model: str | None = None, page_size: int = 1000) -> Pages[Event]:
        """List the events up to now, in the order of the log. `after` is the `resume_after` of an event."""

        async def fetch(token: str | None) -> tuple[list[Event], str | None]:
            params: Params = {"after": token or after, "model": model, "limit": page_size}
            items, next_token = self._page(Event, await self.transport.get_json("/v1/events", params))
            if not items:
                return [], None
            # There is a token even at the end of the log; the next page is empty then.
            items[-1] = items[-1].model_copy(update={"resume_after": next_token})
            return items, next_token

        return Pages(fetch)

    async def push(
        self,
        path: Path | str,
        ref: Ref | str,
        *,
        params: Mapping[str, object] | None = None,
        standardization_params: Mapping[str, object] | None = None,
        metadata: Mapping[str, object] | None = None,
        description: str | None = None,
        tags: Mapping[str, object] | None = None,
        alias: str | None = None,
        transfer: Transfer = "auto",
        parallel: int = 8,
        include_all: bool = False,
        progress: Progress | None = None,
    ) -> Pushed:
        """Publish a file or a folder as a version.

        The version is visible when all its files are stored and verified. Without a label it gets the next number. You
        can repeat a push: files that have arrived are not sent again. See `model_registry_client.push.push` for the
        parameters.
        """
        from model_registry_client import push

        if isinstance(ref, str) and ref.endswith(f":{LATEST}"):
            raise UsageError(f"{ref}: a version cannot be named latest. Use NAME:VERSION, or NAME for the next number.")
        return await push.push(
            self.transport,
            Path(path),
            Ref.of(ref),
            params=params,
            standardization_params=standardization_params,
            metadata=metadata,
            description=description,
            tags=tags,
            alias=alias,
            transfer=transfer,
            parallel=parallel,
            include_all=include_all,
            progress=progress or Silent(),
        )

    async def pull(
        self,
        ref: Ref | str,
        path: Path | str | None = None,
        *,
        include: Sequence[str] = (),
        use_cache: bool = True,
        transfer: Transfer = "auto",
        parallel: int = 8,
        progress: Progress | None = None,
    ) -> Pulled:
        """Download a version into a folder, and verify every file.

        Files that are in the folder are not downloaded again. See `model_registry_client.pull.pull` for the parameters.
        """
        from model_registry_client import pull
        from model_registry_client.cache import Cache

        has_cache = use_cache and self.settings.cache_bytes > 0
        return await pull.pull(
            self.transport,
            Ref.of(ref),
            None if path is None else Path(path),
            include=include,
            cache=Cache(self.settings.cache_dir, self.settings.cache_bytes) if has_cache else None,
            parallel=parallel,
            progress=progress or Silent(),
            transfer=transfer,
        )

    async def open(self, ref: Ref | str, path: str | None = None) -> BufferedReader:
        """Open a file of a version. It can seek, and downloads only what you read.

        If the version has one file, you can omit `path`. Reading blocks, so read in a thread.
        """
        from model_registry_client.remote_file import RemoteFile

        return BufferedReader(RemoteFile(self.transport, await self.version(ref), path))

    def _pages(self, path: Callable[[], Awaitable[str]], kind: type[V], params: Params) -> Pages[V]:
        where: list[str] = []

        async def fetch(token: str | None) -> tuple[list[V], str | None]:
            if not where:
                where.append(await path())
            return self._page(kind, await self.transport.get_json(where[0], {**params, "page_token": token}))

        return Pages(fetch)

    async def _patch(self, path: str, patch: dict[str, Any], if_match: str | None) -> httpx.Response:
        headers = {"Content-Type": MERGE_PATCH} | ({} if if_match is None else {"If-Match": if_match})
        return await self.transport.request("PATCH", path, json=patch, headers=headers)

    async def _act(self, path: str, action: str, body: dict[str, Any] | None = None) -> Version:
        return self._read(Version, await self.transport.request("POST", f"{path}/{action}", json=body))

    async def _delete(self, path: str, slug: str, headers: Mapping[str, str] | None = None) -> None:
        try:
            await self.transport.request("DELETE", path, headers=headers)
        except NotFound as error:
            if not (error.after_lost_answer and error.slug == slug):
                raise

    def _page(self, kind: type[V], page: Any) -> tuple[list[V], str | None]:
        try:
            return [kind.model_validate(item) for item in page["items"]], page["next_page_token"]
        except (ValidationError, TypeError, KeyError):
            raise self.transport.not_a_registry() from None

    def _read(self, kind: type[V], response: httpx.Response) -> V:
        """Return the value in a response, with its ETag."""
        try:
            etag = {"etag": response.headers.get("etag")} if "etag" in kind.model_fields else {}
            return kind.model_validate({**self.transport.json_of(response), **etag})
        except (ValidationError, TypeError):
            raise self.transport.not_a_registry() from None


def _policy(settings: Settings) -> RetryPolicy:
    return RetryPolicy(retry_seconds=settings.retry_seconds, timeout_seconds=settings.timeout_seconds)


async def _done(value: T) -> T:
    return value


def _model(name: str) -> str:
    return f"/v1/models{url_path(name)}"


def _version(ref: Ref) -> str:
    return f"{_model(ref.model)}/versions{url_path(ref.selector)}"


def _label(ref: Ref | str) -> str:
    wanted = Ref.of(ref)
    return _version(Ref(wanted.model, wanted.label))


def _alias(name: str, alias: str) -> str:
    return f"{_model(name)}/aliases{url_path(alias)}"


def _given(**members: object) -> dict[str, object]:
    return {name: value for name, value in members.items() if value is not UNSET}


def _if_generation(generation: int | None) -> dict[str, str]:
    return {} if generation is None else {"If-Match": f'"{generation}"'}


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _tag(value: object) -> str:
    """Return a tag's value as the query has it. Values that are not text are written as JSON."""
    return value if isinstance(value, str) else dumps(value)
