"""Asks a running service whether it is ready; standard library alone, because a container does this all day."""

import urllib.error
import urllib.request


class InvalidUrl(ValueError):
    """An address that no service can have."""


def readiness(url: str) -> tuple[bool, str]:
    """Whether the service at `url` is ready, and what it said."""
    if not url.startswith(("http://", "https://")):
        raise InvalidUrl(f"--url: {url!r} is no http:// or https:// address.")
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/readyz", timeout=5) as answer:  # noqa: S310 - checked above
            return True, answer.read().decode()
    except urllib.error.HTTPError as error:
        return False, error.read().decode()
    except OSError as error:
        return False, f"no answer from {url}: {error}"
