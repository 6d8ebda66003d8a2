"""What the six endpoints do, in one class: start reading here."""

from collections.abc import AsyncIterable, Mapping
from typing import Any

from model_registry.auth.permissions import Actor
from model_registry.domain.entities import ListPosition, ModelInfo, ModelSummary, Page, VersionRef, VersionSelector
from model_registry.services.downloads import Download, Downloads
from model_registry.services.lifecycle import Lifecycle
from model_registry.services.registration import Registration, Registrations
from model_registry.services.versions import Versions


class ModelRegistry:
    """Register, get, list, download and remove versions of models.

    A facade: each method is one call of the services that do the work. The other use cases, such as pushes,
    aliases and search, are in `services/` alone.

    Every method raises `Forbidden` if the actor lacks the permission, `InvalidField` for a value that breaks a rule,
    and `Unavailable` if PostgreSQL or the object store cannot be reached.
    """

    def __init__(
        self, *, registrations: Registrations, versions: Versions, downloads: Downloads, lifecycle: Lifecycle
    ) -> None:
        self._registrations = registrations
        self._versions = versions
        self._downloads = downloads
        self._lifecycle = lifecycle

    async def register(
        self,
        model_name: str,
        version: str,
        *,
        files: Mapping[str, AsyncIterable[bytes]] | None = None,
        standardization_params: Mapping[str, Any] | None = None,
        model_params: Mapping[str, Any] | None = None,
        additional_metadata: Mapping[str, Any] | None = None,
        actor: Actor,
    ) -> ModelInfo:
        """Register a version with all its files, and return it. A version that fails leaves nothing behind.

        Parameters
        ----------
        files
            The bytes of each file by its path in the version. Each stream is read once.
        standardization_params, model_params, additional_metadata
            Values that JSON can represent, and also NumPy values, dates and others: see `utils.clean_json_object`.

        Raises
        ------
        VersionExists, ModelNameTaken
            Before the first byte of a file is read.
        UploadTooLarge, LeaseLost
            While the files are stored.
        """
        ref = await self._registrations.register(
            VersionRef(model_name, version),
            files=files or {},
            standardization_params=standardization_params or {},
            model_params=model_params or {},
            additional_metadata=additional_metadata or {},
            actor=actor,
        )
        return await self.get(VersionSelector(ref.model_name, ref.version), actor=actor)

    def registration(self, *, actor: Actor, idempotency_key: str | None = None) -> Registration:
        """Begin a registration whose parts arrive one by one, as those of a form do. `register` takes all at once.

        Use the result as an async context manager.
        """
        return self._registrations.begin(actor=actor, idempotency_key=idempotency_key)

    async def get(self, selector: VersionSelector, *, actor: Actor) -> ModelInfo:
        """Return everything about one ready version.

        Raises `ModelNotFound`, `AliasNotFound` or `VersionNotFound`.
        """
        return await self._versions.get(selector, actor=actor)

    async def latest(self, model_name: str, *, actor: Actor) -> ModelInfo:
        """Return everything about the latest version of a model.

        This is the version of highest precedence that is neither yanked nor a pre-release. If there are only
        pre-releases, it is the highest of them. Raises `ModelNotFound`, or `VersionNotFound` if no version qualifies.
        """
        return await self._versions.get(VersionSelector(model_name, "latest"), actor=actor)

    async def list_versions(
        self, *, model_name: str | None = None, after: ListPosition | None = None, limit: int = 100, actor: Actor
    ) -> Page[ModelSummary]:
        """Return one page of the ready versions of one model or of all models.

        Versions are ordered by model name, then by precedence, highest first. A page starts after the position
        `after`. An unknown model has no versions.
        """
        return await self._versions.page(model_name=model_name, after=after, limit=limit, actor=actor)

    async def download(self, selector: VersionSelector, path: str | None = None, *, actor: Actor) -> Download:
        """Find bytes to download: the file at `path`, or without a path the only file, or a tar archive of several.

        `Downloads.read` and `Downloads.presign` hand out the bytes.

        Raises `ModelNotFound`, `AliasNotFound`, `VersionNotFound`, `FileNotFound` or `FileDamaged`.
        """
        return await self._downloads.find(selector, path, actor=actor)

    async def remove(self, ref: VersionRef, *, force: bool = False, actor: Actor) -> ModelInfo:
        """Hide a ready version, and return it. It can be restored until it is purged; its label stays taken.

        With `force`, aliases that point at the version are dropped. Without it, they raise `VersionAliased`.
        Raises `ModelNotFound` or `VersionNotFound`.
        """
        return await self._lifecycle.remove(ref, force=force, actor=actor)
