"""What the command line does besides serving."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict

from model_registry.gc import Collected
from model_registry.observability import configure_logging
from model_registry.settings import ConfigurationError, Settings
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


def readiness(url: str) -> tuple[bool, str]:
    """Whether the service at `url` is ready, and what it said."""
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"--url: {url!r} is no http:// or https:// address.")
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/readyz", timeout=5) as answer:  # noqa: S310 - checked above
            return True, answer.read().decode()
    except urllib.error.HTTPError as error:
        return False, error.read().decode()
    except OSError as error:
        return False, f"no answer from {url}: {error}"
