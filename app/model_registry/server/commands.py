"""What the command line does besides serving."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict

from model_registry.maintenance.collector import Collected
from model_registry.maintenance.scrubber import UnknownObject, Verified
from model_registry.runtime.observability import configure_logging
from model_registry.settings import Settings
from model_registry.wiring import blob_store, open_services


def make_bucket(settings: Settings) -> bool:
    """Returns whether the bucket had to be made."""

    async def make() -> bool:
        async with blob_store(settings) as blobs:
            return await blobs.create_bucket()

    return asyncio.run(make())


def collect_once(settings: Settings, *, is_dry: bool = False) -> str:
    """One run of the collector, or what one would do, in words."""
    configure_logging(settings.log_level, settings.log_format)

    async def run() -> Collected:
        async with open_services(settings) as services:
            return await (services.collector.preview() if is_dry else services.collector.collect())

    return ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in asdict(asyncio.run(run())).items())


def verify(settings: Settings, model_name: str | None, say: Callable[[str], None]) -> bool:
    """Hash what is stored, and say what is damaged and what belongs to nothing; returns whether nothing is damaged."""
    configure_logging(settings.log_level, settings.log_format)

    def progress(verified: Verified) -> None:
        say(f"{verified.blobs} blobs, {verified.size_bytes} bytes, {len(verified.damages)} damaged")

    async def run() -> tuple[Verified, list[UnknownObject]]:
        async with open_services(settings) as services:
            verified = await services.verifier.verify(model_name, progress=progress)
            # Whose they are nobody knows, so they are no model's.
            unknown = [] if model_name else [each async for each in services.verifier.unknown_objects()]
            return verified, unknown

    verified, unknown = asyncio.run(run())
    for damage in verified.damages:
        shown_by = ", ".join(f"{ref.model_name} {ref.version} {path}" for ref, path in damage.shown_by)
        say(f"damaged: {damage.sha256} ({shown_by or 'shown by no version'})")
    for each in unknown:
        say(f"unknown: {each.storage_key} ({each.size_bytes} bytes)")
    if unknown:
        size_bytes = sum(each.size_bytes for each in unknown)
        say(f"{len(unknown)} objects, {size_bytes} bytes, belong to nothing. They are left where they are.")
    if verified.damages:
        say("Register or push the same files again, in any version, and they are healed.")
    return not verified.damages


def collect_for_ever(settings: Settings) -> None:
    """Run after run, as the service does; each that did something is a line in the log."""
    configure_logging(settings.log_level, settings.log_format)

    async def run() -> None:
        async with open_services(settings) as services:
            await services.collector.run_for_ever(settings.gc_interval_seconds)

    asyncio.run(run())
