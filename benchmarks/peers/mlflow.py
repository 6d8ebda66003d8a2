"""MLflow's server: its installation, tuning, start and requests.

It runs with one worker, as ours does (its default is 4), and with what it needs for its best performance: uvloop and
httptools, which its own dependencies leave out and uvicorn uses if they are installed; a pool of connections to
PostgreSQL as large as the load; no checksums beyond what S3 requires (botocore adds them by default); no telemetry, no
access log, and no runner of background jobs, which would be another process. Artifacts are proxied, which is its
default. Its client can also move single large files by presigned parts; these requests measure what its server does by
itself.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGKILL
from urllib.parse import urlencode

import orjson

from benchmarks.harness import LeftOut
from benchmarks.load import Request
from benchmarks.peers.wire import Content, Family, Small, Spent, ask, ask_all, ask_json, fetch, opened, spent
from benchmarks.processes import ROOT, Server, free_port, started
from model_registry_devstack import StackAddresses

DATABASE = "mlflow"
_REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_HOME = ROOT / ".benchmarks" / "mlflow-venv"
_LOG = _HOME / "server.log"
_API = "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


def install() -> str:
    """Install MLflow and return its version.

    The virtual environment is created once, and again when the requirements change. This takes a minute or two.
    """
    stamp = _HOME / _REQUIREMENTS.name
    if not stamp.exists() or stamp.read_bytes() != _REQUIREMENTS.read_bytes():
        shutil.rmtree(_HOME, ignore_errors=True)
        pip = [str(_HOME / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in ([sys.executable, "-m", "venv", str(_HOME)], [*pip, "-r", str(_REQUIREMENTS)]):
            made = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
            if made.returncode:
                raise LeftOut(f"MLflow cannot be installed: {(made.stderr.strip() or 'no reason').splitlines()[-1]}")
        (_HOME / ".gitignore").write_text("*\n")
        shutil.copy(_REQUIREMENTS, stamp)
    pins = dict(line.split("==") for line in stamp.read_text().splitlines() if "==" in line)
    return pins["mlflow"]


def database_url(stack: StackAddresses) -> str:
    """Return the URL of its own database on our server, for libpq."""
    server = stack.database_url.replace("+asyncpg", "").rpartition("/")[0]
    return f"{server}/{DATABASE}"


@contextmanager
def served(stack: StackAddresses, *, ready_path: str = "/health") -> Iterator[Family]:
    url = f"http://127.0.0.1:{free_port()}"
    command = [str(_HOME / "bin" / "mlflow"), "server", "--host", "127.0.0.1", "--port", url.rpartition(":")[2]]
    command += ["--workers", "1", "--serve-artifacts", "--artifacts-destination", f"s3://{stack.s3_bucket}/mlflow"]
    command += ["--uvicorn-opts", "--no-access-log --log-level warning"]
    environment = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": database_url(stack).replace("://", "+psycopg2://"),
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "16",
        "MLFLOW_S3_ENDPOINT_URL": stack.s3_endpoint_url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "AWS_ACCESS_KEY_ID": stack.s3_access_key_id,
        "AWS_SECRET_ACCESS_KEY": stack.s3_secret_access_key,
        "AWS_DEFAULT_REGION": stack.s3_region,
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }
    members: list[Server] = []
    try:
        with started(command, url, ready_path=ready_path, environment=environment, log=_LOG, seconds=300) as server:
            family = Family(server.url, server.pid)
            members = family.members()[1:]
            yield family
    finally:
        # If the command is killed because it takes too long to end, the processes that it started remain.
        for member in members:
            with suppress(ProcessLookupError):
                os.kill(member.pid, SIGKILL)


class MLflow:
    """The requests to it, under the names that `Ours` has for the same."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def make_model(self, name: str) -> Request:
        return ("POST", f"{_API}/registered-models/create", orjson.dumps({"name": name}))

    def register(self, name: str, _label: str, metadata: Mapping[str, str]) -> Request:
        """MLflow numbers versions by itself."""
        tags = [{"key": key, "value": value} for key, value in metadata.items()]
        body = {"name": name, "source": f"s3://elsewhere/{name}", "tags": tags}
        return ("POST", f"{_API}/model-versions/create", orjson.dumps(body))

    def point(self, name: str, alias: str, label: str) -> Request:
        body = {"name": name, "alias": alias, "version": label}
        return ("POST", f"{_API}/registered-models/alias", orjson.dumps(body))

    def version(self, name: str, label: str) -> Request:
        return _get("/model-versions/get", name=name, version=label)

    def aliased(self, name: str, alias: str) -> Request:
        return _get("/registered-models/alias", name=name, alias=alias)

    def model(self, name: str) -> Request:
        return _get("/registered-models/get", name=name)

    def page(self, name: str, limit: int, token: str | None = None) -> Request:
        query = {"filter": f"name = '{name}'", "max_results": str(limit)} | ({"page_token": token} if token else {})
        return _get("/model-versions/search", **query)

    def label_of(self, answer: bytes) -> str:
        return str(orjson.loads(answer)["model_version"]["version"])

    def name_of(self, answer: bytes) -> str:
        return str(orjson.loads(answer)["registered_model"]["name"])

    def labels_of(self, answer: bytes) -> tuple[list[str], str | None]:
        """Return the labels of a page, and the token of the next page."""
        page = orjson.loads(answer)
        return [each["version"] for each in page["model_versions"]], page.get("next_page_token")

    def upload(self, content: Content) -> Spent:
        def work() -> None:
            with opened(self.server.url) as connection:
                about = {"Content-Length": str(content.size_bytes)}
                ask(connection, "PUT", f"{_ARTIFACTS}/large/{content.number}/model.bin", iter(content), about).read()

        return spent(self.server, work)

    def download(self, content: Content) -> Spent:
        target = f"{_ARTIFACTS}/large/{content.number}/model.bin"
        return spent(self.server, lambda: fetch(self.server.url, target, content))

    def upload_files(self, name: str, files: Sequence[Content]) -> Spent:
        """Upload each file by a PUT, as its client does."""

        def work() -> None:
            targets = _targets(name, len(files))
            ask_all(
                self.server.url,
                [Small("PUT", target, each.whole()) for target, each in zip(targets, files, strict=True)],
            )

        return spent(self.server, work)

    def download_files(self, name: str, files: Sequence[Content]) -> Spent:
        """Get the list of files, and then each by a GET, as its client does."""

        def work() -> None:
            with opened(self.server.url) as connection:
                listed = ask_json(connection, "GET", f"{_ARTIFACTS}?{urlencode({'path': f'small/{name}'})}")["files"]
            if len(listed) != len(files):
                raise RuntimeError(f"MLflow lists {len(listed)} files of {len(files)}.")
            targets = _targets(name, len(files))
            ask_all(
                self.server.url,
                [Small("GET", target, expected=each.whole()) for target, each in zip(targets, files, strict=True)],
            )

        return spent(self.server, work)


def _get(path: str, **query: str) -> Request:
    return ("GET", f"{_API}{path}?{urlencode(query)}", b"")


def _targets(name: str, count: int) -> list[str]:
    return [f"{_ARTIFACTS}/small/{name}/{at:05}.bin" for at in range(count)]
