"""Asks a running service whether it is ready. Uses only the standard library: a container runs it every few seconds."""

import urllib.error
import urllib.request


class InvalidUrl(ValueError):
    """The URL is not an HTTP URL."""


def readiness(url: str) -> tuple[bool, str]:
    """Return whether the service at `url` is ready, and its response."""
    if not url.startswith(("http://", "https://")):
        raise InvalidUrl(f"--url: {url!r} is not an http:// or https:// URL.")
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/readyz", timeout=5) as response:  # noqa: S310 - checked above
            return True, response.read().decode()
    except urllib.error.HTTPError as error:
        return False, error.read().decode()
    except OSError as error:
        return False, f"no response from {url}: {error}"
