"""Build the services of a process from its settings."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from model_registry.database.engine import Database, SchemaRevision
from model_registry.database.pool import DatabaseLimits
from model_registry.errors import Unavailable
from model_registry.maintenance.collector import Collector
from model_registry.maintenance.scrubber import Scrubber
from model_registry.migrations import head_revision
from model_registry.model_registry import ModelRegistry
from model_registry.object_store.blob_store import BlobStore
from model_registry.object_store.s3 import S3BlobStore
from model_registry.object_store.s3_client import S3Options
from model_registry.runtime.background_tasks import BackgroundTasks
from model_registry.services.aliases import Aliases
from model_registry.services.downloads import Downloads
from model_registry.services.events import Events
from model_registry.services.lifecycle import Lifecycle
from model_registry.services.models import Models
from model_registry.services.push.commit import Commits
from model_registry.services.push.limits import PushLimits
from model_registry.services.push.parts import UploadParts
from model_registry.services.push.proxied import ProxiedUploads
from model_registry.services.push.reservation import Reservations
from model_registry.services.registration import Registrations
from model_registry.services.search import Search
from model_registry.services.versions import Versions
from model_registry.settings import ConfigurationError, Settings
from model_registry.transfer.part_buffers import PartBuffers
from model_registry.transfer.upload_limits import UploadLimits

_LATE_WRITE_SECONDS = 300
_SETTLE_SECONDS = 5


class SchemaOutOfDate(ConfigurationError):
    def __init__(self, found: str | None, wanted: str) -> None:
        super().__init__(
            f"The database schema is at {found or 'nothing'} and this version needs {wanted}: "
            "run `model-registry migrate` first."
        )


class SchemaTooNew(ConfigurationError):
    def __init__(self, found: SchemaRevision, wanted: str) -> None:
        super().__init__(
            f"The database schema is at {found.current} and needs services made for {found.floor or found.current} or "
            f"later. This version is made for {wanted}. Start a newer version."
        )


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    database: Database
    blobs: BlobStore
    registry: ModelRegistry
    versions: Versions
    search: Search
    models: Models
    lifecycle: Lifecycle
    reservations: Reservations
    upload_parts: UploadParts
    proxied_uploads: ProxiedUploads
    commits: Commits
    downloads: Downloads
    aliases: Aliases
    events: Events
    collector: Collector
    scrubber: Scrubber


def blob_store(settings: Settings) -> S3BlobStore:
    secret = settings.s3_secret_access_key
    return S3BlobStore(
        S3Options(
            bucket=settings.s3_bucket,
            endpoint_url=settings.s3_endpoint_url,
            public_endpoint_url=settings.s3_public_endpoint_url,
            region=settings.s3_region,
            access_key_id=settings.s3_access_key_id,
            secret_access_key=secret.get_secret_value() if secret else None,
            max_connections=settings.s3_max_connections,
            connect_timeout_seconds=settings.s3_connect_timeout_seconds,
            read_timeout_seconds=settings.s3_read_timeout_seconds,
            operation_timeout_seconds=settings.s3_operation_timeout_seconds,
        )
    )


def open_database(settings: Settings) -> Database:
    return Database(
        settings.database_url.get_secret_value(),
        DatabaseLimits(
            pool_size=settings.database_pool_size,
            pool_timeout_seconds=settings.database_pool_timeout_seconds,
            connect_timeout_seconds=settings.database_connect_timeout_seconds,
            statement_timeout_seconds=settings.database_statement_timeout_seconds,
            lock_timeout_seconds=settings.database_lock_timeout_seconds,
        ),
    )


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Yield everything that a process needs. Connections are opened on first use, and closed at the end."""
    database = open_database(settings)
    try:
        async with blob_store(settings) as blobs:
            background_tasks = BackgroundTasks()
            yield _services(settings, database, blobs, background_tasks)
            await background_tasks.settle(_SETTLE_SECONDS)
    finally:
        await database.close()


def _services(settings: Settings, database: Database, blobs: BlobStore, background_tasks: BackgroundTasks) -> Services:
    buffers = PartBuffers(settings.upload_buffer_slots)
    limits = UploadLimits(
        max_upload_bytes=settings.max_upload_bytes,
        lease_seconds=settings.upload_lease_seconds,
        late_write_seconds=min(_LATE_WRITE_SECONDS, settings.gc_grace_seconds),
    )
    registrations = Registrations(
        database=database,
        blobs=blobs,
        buffers=buffers,
        limits=limits,
        background_tasks=background_tasks,
    )
    versions = Versions(database)
    downloads = Downloads(database, blobs)
    lifecycle = Lifecycle(
        database=database,
        purge_after_seconds=settings.purge_after_seconds,
        grace_seconds=settings.gc_grace_seconds,
        max_metadata_bytes=settings.max_metadata_bytes,
    )
    push_limits = PushLimits(
        multipart_threshold_bytes=settings.multipart_threshold_bytes,
        part_bytes=settings.multipart_part_bytes,
        presign_expiry_seconds=settings.presign_expiry_seconds,
        max_pending=settings.max_pending_versions,
    )
    return Services(
        settings=settings,
        database=database,
        blobs=blobs,
        registry=ModelRegistry(
            registrations=registrations, versions=versions, downloads=downloads, lifecycle=lifecycle
        ),
        versions=versions,
        search=Search(database),
        models=Models(database),
        lifecycle=lifecycle,
        reservations=Reservations(database=database, blobs=blobs, upload_limits=limits, push_limits=push_limits),
        upload_parts=UploadParts(
            database=database, blobs=blobs, lease_seconds=limits.lease_seconds, push_limits=push_limits
        ),
        proxied_uploads=ProxiedUploads(
            database=database,
            blobs=blobs,
            buffers=buffers,
            limits=limits,
            background_tasks=background_tasks,
        ),
        commits=Commits(
            database=database,
            blobs=blobs,
            limits=limits,
            background_tasks=background_tasks,
            wait_seconds=settings.commit_wait_seconds,
        ),
        downloads=downloads,
        aliases=Aliases(database),
        events=Events(database),
        collector=Collector(database=database, blobs=blobs, grace_seconds=settings.gc_grace_seconds),
        scrubber=Scrubber(database=database, blobs=blobs),
    )


async def require_supported_schema(database: Database) -> None:
    """Raise `SchemaOutOfDate` or `SchemaTooNew` if this version cannot work with the schema.

    A newer schema is accepted unless its floor excludes this version, because services keep running during a migration.
    Revisions are numbers of four digits, so that they compare as text. Raises `Unavailable` if the database cannot be
    reached.
    """
    found, wanted = await database.schema_revision(), head_revision()
    if found.current is None or found.current < wanted:
        raise SchemaOutOfDate(found.current, wanted)
    if found.current > wanted and (found.floor is None or found.floor > wanted):
        raise SchemaTooNew(found, wanted)


async def check_schema_at(settings: Settings) -> None:
    """Call `require_supported_schema` before the services exist. A database that is unavailable is no error here."""
    database = open_database(settings)
    try:
        await require_supported_schema(database)
    except Unavailable:
        return
    finally:
        await database.close()
