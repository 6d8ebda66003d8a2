"""The URLs of the registry and of storage: how they are built, checked and shown."""

import logging
from urllib.parse import quote

import httpx

from model_registry_client.errors import UsageError


def url_path(*segments: str) -> str:
    """Return `/a/b` with each segment encoded. Raises `UsageError` for a segment that is empty or consists of dots."""
    for segment in segments:
        if segment in {"", ".", ".."}:
            raise UsageError(f"{segment!r} is not a valid name.")
    return "".join(f"/{quote(segment, safe='')}" for segment in segments)


def registry_url_without_password(url: str) -> str:
    """Return the URL of a registry as messages show it. Raises `UsageError` if it cannot be the URL of a registry."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UsageError(f"{url!r} is not a URL: {error}.") from None
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise UsageError(f"{url!r} is not the URL of a registry. Use one like https://models.example.org.")
    if parsed.query or parsed.fragment:
        raise UsageError(f"{url!r} is not the URL of a registry: it must not have a query or a fragment.")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise UsageError(f"{url!r} is not the URL of a registry: ports are 1 to 65535.")
    return str(parsed.copy_with(userinfo=b""))


def origin(url: str) -> str:
    """Return the scheme, host and port of a URL."""
    return str(httpx.URL(url).copy_with(path="/", query=None, fragment=None, userinfo=b"")).rstrip("/")


def _without_signature(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(
            each.copy_with(query=None) if isinstance(each, httpx.URL) and b"X-Amz-Signature" in each.query else each
            for each in record.args
        )
    return True


# httpx logs complete URLs, and a presigned URL is a credential.
logging.getLogger("httpx").addFilter(_without_signature)
