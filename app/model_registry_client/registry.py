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
        """Of the registry itself, without a slash at the end."""
        return self._registry.base_url

    def models(
        self, search: str | None = None, tags: Mapping[str, object] | None = None, *, page_size: int = 1000
    ) -> Iterator[Model]:
        """Models by name; `search` is part of the name in any case, and a model has all of the `tags`."""
        return self._items(self._registry.models(search, tags, page_size=page_size))

    def model(self, name: str) -> Model:
        return self._wait(self._registry.model(name))

    def create_model(
        self, name: str, *, description: str | None = None, tags: Mapping[str, object] | None = None
    ) -> Model:
        """A model without versions; the first push would make one, too. Raises `Conflict` where there is one."""
        return self._wait(self._registry.create_model(name, description=description, tags=tags))

    def update_model(
        self,
        name: str,
        *,
        description: str | Unset | None = UNSET,
        tags: Mapping[str, object] | Unset = UNSET,
        if_match: str | None = None,
    ) -> Model:
        """Change what is given and nothing else; a tag that is `None` goes. `if_match` is the `etag` that you saw."""
        return self._wait(self._registry.update_model(name, description=description, tags=tags, if_match=if_match))

    def delete_model(self, name: str) -> None:
        """Only one that never had a version; raises `Conflict` for another."""
        self._wait(self._registry.delete_model(name))

    def versions(
        self, name: str, state: str = "ready", order: str = "precedence", *, page_size: int = 100
    ) -> Iterator[Version]:
        """Versions of a model, the newest first: by `precedence` of their labels, or as they were `created`."""
        return self._items(self._registry.versions(name, state, order, page_size=page_size))

    def search(
        self,
        filter: str | None = None,  # noqa: A002 - as the API has it
        order_by: str | None = None,
        *,
        page_size: int = 100,
    ) -> Iterator[Version]:
        """Versions of all models: `additional_metadata.metrics.auc >= 0.9 AND tags.team = 'risk'` is a filter."""
        return self._items(self._registry.search(filter, order_by, page_size=page_size))

    def version(self, ref: Ref | str) -> Version:
        """By its label also one that is still being pushed; `state` says how far it is."""
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
        """Change what is given, member by member; what is `None`, or NaN, goes. The rest of a version is frozen."""
        return self._wait(
            self._registry.update(
                ref, description=description, tags=tags, additional_metadata=additional_metadata, if_match=if_match
            )
        )

    def yank(self, ref: Ref | str, reason: str | None = None) -> Version:
        """Never the latest any more, but still there for whoever names it."""
        return self._wait(self._registry.yank(ref, reason))

    def unyank(self, ref: Ref | str) -> Version:
        return self._wait(self._registry.unyank(ref))

    def restore(self, ref: Ref | str) -> Version:
        """Show a removed version again; raises `Conflict` once it is purged."""
        return self._wait(self._registry.restore(ref))

    def remove(self, ref: Ref | str, purge: bool = False, force: bool = False) -> Version:
        """Hide a version. `purge` gives up its bytes for good, `force` drops the aliases that point at it, which are a
        `Conflict` otherwise."""
        return self._wait(self._registry.remove(ref, purge, force))

    def aliases(self, name: str, *, page_size: int = 1000) -> Iterator[Alias]:
        return self._items(self._registry.aliases(name, page_size=page_size))

    def alias(self, name: str, alias: str, *, at: str | None = None) -> Alias:
        """Where it points, or pointed `at` an RFC 3339 time."""
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
        """Make an alias or move it, to the version with this label.

        With `expected_generation` only if nobody moved it since, with `create_only` only if there is none;
        otherwise it raises `PreconditionFailed`, whose `problem` says where the alias points now. Without either the
        last one wins.
        """
        return self._wait(
            self._registry.alias_set(
                name, alias, version, expected_generation=expected_generation, create_only=create_only
            )
        )

    def alias_remove(self, name: str, alias: str, *, expected_generation: int | None = None) -> None:
        """Drop an alias; its version and its history stay."""
        self._wait(self._registry.alias_remove(name, alias, expected_generation=expected_generation))

    def alias_rollback(self, name: str, alias: str, *, expected_generation: int | None = None) -> Alias:
        """Point an alias at the version that it pointed at before. Again undoes it.

        It goes back from where it points now, or from `expected_generation`, and only from there, so that a request
        that is repeated after a lost answer does not undo itself.
        """
        return self._wait(self._registry.alias_rollback(name, alias, expected_generation=expected_generation))

    def alias_history(self, name: str, alias: str, *, page_size: int = 1000) -> Iterator[AliasMove]:
        """Every move, the newest first; also of an alias that is gone."""
        return self._items(self._registry.alias_history(name, alias, page_size=page_size))

    def swap(self, name: str, moves: Iterable[Mapping[str, str | None]]) -> list[Alias]:
        """Move several aliases together or none: `{"alias", "version"}` each, and `"expected_version"` (`None` for an
        alias that must not exist) where the move is to be made only from there."""
        return self._wait(self._registry.swap(name, moves))

    def files(self, ref: Ref | str, *, presign: bool = False, page_size: int = 1000) -> Iterator[File]:
        """All files of a version, by path; with `presign` each has a `url` that is good without credentials."""
        return self._items(self._registry.files(ref, presign=presign, page_size=page_size))

    def download_url(
        self, ref: Ref | str, path: str | None = None, expires_in_seconds: int | None = None
    ) -> DownloadUrl:
        """A URL of one file, good without credentials; `path` may be left out where there is one file."""
        return self._wait(self._registry.download_url(ref, path, expires_in_seconds))

    def url(self, ref: Ref | str, path: str | None = None) -> str:
        """Where the registry itself has a version, or one file of it; nothing is asked."""
        return self._registry.url(ref, path)

    def events(self, after: str | None = None, *, model: str | None = None, page_size: int = 1000) -> Iterator[Event]:
        """What happened, in the order of the log, up to now; `after` is the `resume_after` of an event."""
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
        """Publish a file or a folder as a version; without a label it gets the next number. See `push.push`."""
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
        """Bring a version into a folder, verified; what is there already is not fetched again. See `pull.pull`."""
        return self._wait(
            self._registry.pull(
                ref, path, include=include, use_cache=use_cache, transfer=transfer, parallel=parallel, progress=progress
            )
        )

    def open(self, ref: Ref | str, path: str | None = None) -> BufferedReader:
        """A file of a version to read and seek in, which fetches what is read; `path` may be left out where there is
        one file. What is read from it blocks, so do that in a thread."""
        return self._wait(self._registry.open(ref, path))
