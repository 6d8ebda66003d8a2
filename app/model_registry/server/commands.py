"""The maintenance commands of the command line."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict

from model_registry.maintenance.collector import Collected
from model_registry.maintenance.scrubber import UnknownObject, Verified
from model_registry.runtime.observability import configure_logging
from model_registry.settings import Settings
from model_registry.wiring import blob_store, open_services


def create_bucket(settings: Settings) -> bool:
    """Create the bucket if it does not exist. Returns whether it was created."""

    async def create() -> bool:
        async with blob_store(settings) as blobs:
            return await blobs.create_bucket()

    return asyncio.run(create())


def collect_once(settings: Settings, *, is_dry: bool = False) -> str:
    """Run the collector once, or only preview a run. Returns the counts as text."""
    configure_logging(settings.log_level, settings.log_format)

    async def run() -> Collected:
        async with open_services(settings) as services:
            return await (services.collector.preview() if is_dry else services.collector.collect())

    return ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in asdict(asyncio.run(run())).items())


def verify(settings: Settings, model_name: str | None, say: Callable[[str], None]) -> bool:
    """Hash the stored files and report damaged files and unknown objects. Returns whether nothing is damaged."""
    configure_logging(settings.log_level, settings.log_format)

    def progress(verified: Verified) -> None:
        say(f"{verified.blobs} blobs, {verified.size_bytes} bytes, {len(verified.damages)} damaged")

    async def run() -> tuple[Verified, list[UnknownObject]]:
        async with open_services(settings) as services:
            verified = await services.scrubber.verify(model_name, progress=progress)
            # An unknown object belongs to no model.
            unknown = [] if model_name else [each async for each in services.scrubber.unknown_objects()]
            return verified, unknown

    verified, unknown = asyncio.run(run())
    for damage in verified.damages:
        shown_by = ", ".join(f"{ref.model_name} {ref.version} {path}" for ref, path in damage.shown_by)
        say(f"damaged: {damage.sha256} ({shown_by or 'not in any version'})")
    for each in unknown:
        say(f"unknown: {each.storage_key} ({each.size_bytes} bytes)")
    if unknown:
        size_bytes = sum(each.size_bytes for each in unknown)
        say(f"{len(unknown)} unknown objects, {size_bytes} bytes. No version uses them; they are not deleted.")
    if verified.damages:
        say("To repair the damaged files, register or push them again, in any version.")
    return not verified.damages


def collect_forever(settings: Settings) -> None:
    """Run the collector at its interval, as the service does. A run that did something logs a line."""
    configure_logging(settings.log_level, settings.log_format)

    async def run() -> None:
        async with open_services(settings) as services:
            await services.collector.run_forever(settings.gc_interval_seconds)

    asyncio.run(run())
