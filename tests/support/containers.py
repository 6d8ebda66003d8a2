"""PostgreSQL and S3 in containers, for `pytest --stack=containers`."""

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.container import DockerContainer

from model_registry_devstack import StackAddresses

_KEY, _SECRET = "testing-key", "testing-secret"


@contextmanager
def container_stack() -> Iterator[StackAddresses]:
    """Runs the images that docker-compose.yml uses, and removes the containers afterwards."""
    s3 = (
        DockerContainer("chrislusf/seaweedfs:4.48")
        .with_command("mini -dir=/data -bucket=models -admin.ui=false -webdav=false -s3.autoCreateBucket=false")
        .with_env("AWS_ACCESS_KEY_ID", _KEY)
        .with_env("AWS_SECRET_ACCESS_KEY", _SECRET)
        .with_exposed_ports(8333)
    )
    with PostgresContainer("postgres:17", driver="asyncpg") as postgres, s3:
        endpoint = f"http://{s3.get_container_host_ip()}:{s3.get_exposed_port(8333)}"
        _wait_for(endpoint)
        yield StackAddresses(
            database_url=postgres.get_connection_url(),
            s3_endpoint_url=endpoint,
            s3_bucket="models",
            s3_region="us-east-1",
            s3_access_key_id=_KEY,
            s3_secret_access_key=_SECRET,
        )


def _wait_for(endpoint: str, timeout_seconds: float = 60) -> None:
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(endpoint, timeout=1)
        except urllib.error.HTTPError:
            time.sleep(1)  # any response will do, even "forbidden"; the bucket follows a moment later
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(endpoint)
