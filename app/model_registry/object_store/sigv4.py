"""Presigned S3 URLs: AWS Signature Version 4 in the query string.

The S3 library builds a whole request for each URL, and a manifest needs thousands of URLs at once. This module computes
once what is the same for a batch, so each URL costs two encodings and two hashes.

References
----------
Amazon S3 API Reference, "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)".
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import parse_qs, quote, urlsplit

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, slots=True)
class AccessKey:
    """Credentials at one moment. Credentials with a session token are temporary."""

    id: str
    secret: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """The address of a bucket. `host` is as signatures spell it: without the default port of the scheme."""

    origin: str
    host: str
    path: str
    region: str

    @classmethod
    def from_presigned(cls, url: str, key: str) -> "BucketAddress":
        """Take the address from a URL that another signer made for `key`, which needs no quoting."""
        parts = urlsplit(url)
        credential = parse_qs(parts.query)["X-Amz-Credential"][0]
        return cls(
            origin=f"{parts.scheme}://{parts.netloc}",
            host=parts.netloc.lower().removesuffix(_DEFAULT_PORTS[parts.scheme]),
            path=parts.path.removesuffix(key),
            region=credential.split("/")[-3],
        )


class Presigner:
    """Signs URLs for one bucket with one access key. All are valid from `now` for the same time."""

    def __init__(
        self, address: BucketAddress, access_key: AccessKey, *, expires_in_seconds: int, now: datetime | None = None
    ) -> None:
        time = (now or datetime.now(UTC)).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
        day = time[:8]
        scope = f"{day}/{address.region}/s3/aws4_request"
        token = access_key.session_token
        self._address = address
        self._signing_key = _signing_key(access_key.secret, day, address.region)
        self._to_sign = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n"
        # A signature covers the parameters sorted by name, so they are written in that order.
        self._query = (
            f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={_encoded(f'{access_key.id}/{scope}')}"
            f"&X-Amz-Date={time}&X-Amz-Expires={expires_in_seconds}"
            + ("" if token is None else f"&X-Amz-Security-Token={_encoded(token)}")
        )

    def get(self, key: str, *, content_type: str, disposition: str) -> str:
        """Sign a GET of an object; the response has this Content-Type and Content-Disposition."""
        parameters = (
            f"&response-content-disposition={_encoded(disposition)}&response-content-type={_encoded(content_type)}"
        )
        return self._url("GET", key, parameters, {})

    def plain(self, method: str, key: str, headers: Mapping[str, str]) -> str:
        """Sign a GET or HEAD of an object with exactly these headers."""
        return self._url(method, key, "", headers)

    def put(self, key: str, headers: Mapping[str, str]) -> str:
        """Sign a PUT of an object with exactly these headers."""
        return self._url("PUT", key, "", headers)

    def put_part(self, key: str, multipart_id: str, number: int, headers: Mapping[str, str]) -> str:
        """Sign a PUT of one part of an object with exactly these headers."""
        return self._url("PUT", key, f"&partNumber={number}&uploadId={_encoded(multipart_id)}", headers)

    def _url(self, method: str, key: str, parameters: str, headers: Mapping[str, str]) -> str:
        address = self._address
        signed = {name.lower(): " ".join(value.split()) for name, value in headers.items()} | {"host": address.host}
        names = sorted(signed)
        path = f"{address.path}{quote(key, safe='/')}"
        query = f"{self._query}&X-Amz-SignedHeaders={'%3B'.join(names)}{parameters}"
        lines = [f"{name}:{signed[name]}" for name in names]
        request = "\n".join([method, path, query, *lines, "", ";".join(names), "UNSIGNED-PAYLOAD"])
        to_sign = self._to_sign + hashlib.sha256(request.encode()).hexdigest()
        signature = hmac.digest(self._signing_key, to_sign.encode(), "sha256").hex()
        return f"{address.origin}{path}?{query}&X-Amz-Signature={signature}"


@lru_cache(maxsize=4)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for step in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    return key


def _encoded(value: str) -> str:
    return quote(value, safe="")
