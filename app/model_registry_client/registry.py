"""The registry for code without an event loop.

Generated from async_registry.py by `make format`. Edit that file, not this one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BufferedReader
from pathlib import Path

from model_registry_client.async_registry import UNSET, Unset
from model_registry_client.blocking import BlockingClient
from model_registry_client.progress import Progress
from model_registry_client.types import (
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


class Registry(BlockingClient):
    """A client of the registry at `url`, or at the URL in the settings. The methods are those of `AsyncRegistry`.

    Threads can share one client, and it works after `fork`. You do not have to close it before the process ends.
    """

    @property
    def base_url(self) -> str:
        """The URL of the registry, without a slash at the end."""
        return self._registry.base_url

    def models(
        self, search: str | None = None, tags: Mapping[str, object] | None = None, *, page_size: int = 1000
    ) -> Iterator[Model]:
        """List models by name. `search` is a part of the name, in any case; a model must have all `tags`."""
        return self._items(self._registry.models(search, tags, page_size=page_size))

    def model(self, name: str) -> Model:
        """Return a model."""
        return self._wait(self._registry.model(name))

    def create_model(
        self, name: str, *, description: str | None = None, tags: Mapping[str, object] | None = None
    ) -> Model:
        """Create a model without versions. The first push also creates it. Raises `Conflict` if it exists."""
        return self._wait(self._registry.create_model(name, description=description, tags=tags))

    def update_model(
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
        return self._wait(self._registry.update_model(name, description=description, tags=tags, if_match=if_match))

    def delete_model(self, name: str) -> None:
        """Delete a model that never had a version. Raises `Conflict` for any other model."""
        self._wait(self._registry.delete_model(name))

    def versions(
        self, name: str, state: str = "ready", order: str = "precedence", *, page_size: int = 100
    ) -> Iterator[Version]:
        """List the versions of a model, newest first: by `precedence` of their labels, or as they were `created`."""
        return self._items(self._registry.versions(name, state, order, page_size=page_size))

    def search(
        self,
        filter: str | None = None,  # noqa: A002 - as the API has it
        order_by: str | None = None,
        *,
        page_size: int = 100,
    ) -> Iterator[Version]:
        """Search the versions of all models. An example of a filter:

        `additional_metadata.metrics.auc >= 0.9 AND tags.team = 'risk'`
        """
        return self._items(self._registry.search(filter, order_by, page_size=page_size))

    def version(self, ref: Ref | str) -> Version:
        """Return a version. A label also finds a version that is still being pushed; see its `state`."""
        return self._wait(self._registry.version(ref))

    def update(
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
        return self._wait(
            self._registry.update(
                ref, description=description, tags=tags, additional_metadata=additional_metadata, if_match=if_match
            )
        )

    def yank(self, ref: Ref | str, reason: str | None = None) -> Version:
        """Yank a version. It is no longer the latest, but you can still use it by name."""
        return self._wait(self._registry.yank(ref, reason))

    def unyank(self, ref: Ref | str) -> Version:
        """Undo a yank. The version can be the latest again."""
        return self._wait(self._registry.unyank(ref))

    def restore(self, ref: Ref | str) -> Version:
        """Restore a removed version. Raises `Conflict` if it is purged."""
        return self._wait(self._registry.restore(ref))

    def remove(self, ref: Ref | str, purge: bool = False, force: bool = False) -> Version:
        """Remove a version.

        `purge` permanently deletes its bytes. `force` also removes the aliases that point at it; without it they raise
        `Conflict`.
        """
        return self._wait(self._registry.remove(ref, purge, force))

    def aliases(self, name: str, *, page_size: int = 1000) -> Iterator[Alias]:
        """List the aliases of a model."""
        return self._items(self._registry.aliases(name, page_size=page_size))

    def alias(self, name: str, alias: str, *, at: str | None = None) -> Alias:
        """Return an alias as it is now, or as it was `at` an RFC 3339 time."""
        return self._wait(self._registry.alias(name, alias, at=at))

    def alias_set(
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
        return self._wait(
            self._registry.alias_set(
                name, alias, version, expected_generation=expected_generation, create_only=create_only
            )
        )

    def alias_remove(self, name: str, alias: str, *, expected_generation: int | None = None) -> None:
        """Remove an alias. Its version and its history stay."""
        self._wait(self._registry.alias_remove(name, alias, expected_generation=expected_generation))

    def alias_rollback(self, name: str, alias: str, *, expected_generation: int | None = None) -> Alias:
        """Move an alias back to its previous version. A second rollback undoes the first.

        The alias moves only from its present generation, or from `expected_generation`. So a request that is repeated
        after a lost response does not undo itself.
        """
        return self._wait(self._registry.alias_rollback(name, alias, expected_generation=expected_generation))

    def alias_history(self, name: str, alias: str, *, page_size: int = 1000) -> Iterator[AliasMove]:
        """List the moves of an alias, newest first. This also works for an alias that was removed."""
        return self._items(self._registry.alias_history(name, alias, page_size=page_size))

    def swap(self, name: str, moves: Iterable[Mapping[str, str | None]]) -> list[Alias]:
        """Move several aliases in one step: all of them or none.

        A move is `{"alias": …, "version": …}`. With `"expected_version"` the alias must point there before the move;
        `None` means that it must not exist.
        """
        return self._wait(self._registry.swap(name, moves))

    def files(self, ref: Ref | str, *, presign: bool = False, page_size: int = 1000) -> Iterator[File]:
        """List all files of a version, by path. With `presign` each has a `url` that needs no credentials."""
        return self._items(self._registry.files(ref, presign=presign, page_size=page_size))

    def download_url(
        self, ref: Ref | str, path: str | None = None, expires_in_seconds: int | None = None
    ) -> DownloadUrl:
        """Return a URL of one file, which needs no credentials. If the version has one file, you can omit `path`."""
        return self._wait(self._registry.download_url(ref, path, expires_in_seconds))

    def url(self, ref: Ref | str, path: str | None = None) -> str:
        """Return the URL of a version in the registry, or of one of its files. Sends no request."""
        return self._registry.url(ref, path)

    def events(self, after: str | None = None, *, model: str | None = None, page_size: int = 1000) -> Iterator[Event]:
        """List the events up to now, in the order of the log. `after` is the `resume_after` of an event."""
        return self._items(self._registry.events(after, model=model, page_size=page_size))

    def push(
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
        return self._wait(
            self._registry.push(
                path,
                ref,
                params=params,
                standardization_params=standardization_params,
                metadata=metadata,
                description=description,
                tags=tags,
                alias=alias,
                transfer=transfer,
                parallel=parallel,
                include_all=include_all,
                progress=progress,
            )
        )

    def pull(
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
        return self._wait(
            self._registry.pull(
                ref, path, include=include, use_cache=use_cache, transfer=transfer, parallel=parallel, progress=progress
            )
        )

    def open(self, ref: Ref | str, path: str | None = None) -> BufferedReader:
        """Open a file of a version. It can seek, and downloads only what you read.

        If the version has one file, you can omit `path`. Reading blocks, so read in a thread.
        """
        return self._wait(self._registry.open(ref, path))
