"""What the command line does besides serving."""

import asyncio
from dataclasses import asdict

from model_registry.gc import Collected
from model_registry.observability import configure_logging
from model_registry.settings import Settings
from model_registry.wiring import blob_store, open_services


def make_bucket(settings: Settings) -> bool:
    """Returns whether the bucket had to be made."""

    async def make() -> bool:
        async with blob_store(settings) as blobs:
            return await blobs.create_bucket()

    return asyncio.run(make())


def collect_once(settings: Settings) -> str:
    """One run of the collector, in words."""
    configure_logging(settings.log_level, settings.log_format)

    async def run() -> Collected:
        async with open_services(settings) as services:
            return await services.collector.collect()

    return ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in asdict(asyncio.run(run())).items())


def collect_for_ever(settings: Settings) -> None:
    """Run after run, as the service does; each that did something is a line in the log."""
    configure_logging(settings.log_level, settings.log_format)

    async def run() -> None:
        async with open_services(settings) as services:
            await services.collector.run_for_ever(settings.gc_interval_seconds)

    asyncio.run(run())
