"""What the command line does besides serving."""

import asyncio
from collections.abc import Iterator
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


def collect(settings: Settings, *, once: bool) -> Iterator[str]:
    """Run the collector once, or for ever; one line for each run that did something."""
    configure_logging(settings.log_level, settings.log_format)

    async def run() -> Collected:
        async with open_services(settings) as services:
            if not once:
                await services.collector.run_for_ever(settings.gc_interval_seconds)
            return await services.collector.collect()

    yield ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in asdict(asyncio.run(run())).items())
