"""Object stores that run here: SeaweedFS for S3, Azurite for Azure, and a small one of the tests' own for GCS; and `aws`, which
keeps S3's rules of checksums (moto), and does not look at signatures.

Each is started and stopped by the tests, on the loopback device, and empty when it begins. A `Bucket` is a database in one of
them, with what the tests do to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Optional
from urllib.parse import quote

PATIENCE = 120.0

#: What must never be printed: each store's secret.
S3_KEY, S3_SECRET = "relance-tests", "s3-secret-that-nobody-prints"
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_SECRET = "YXp1cmUtc2VjcmV0LXRoYXQtbm9ib2R5LXByaW50cw=="
#: Of one who may read and nothing else.
READER_KEY, READER_SECRET = "relance-reader", "reader-secret-that-nobody-prints"
GCS_SECRET = "gcs-secret-that-nobody-prints"
#: What somebody gives by mistake, as a text and as Azure's keys are written.
WRONG_SECRET, WRONG_KEY = "wrong-secret-that-nobody-prints", "d3Jvbmctc2VjcmV0LXRoYXQtbm9ib2R5LXByaW50cw=="
SECRETS = (S3_SECRET, AZURE_SECRET, READER_SECRET, GCS_SECRET, WRONG_SECRET, WRONG_KEY)
KINDS = ("s3", "azure", "gcs")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@dataclasses.dataclass
class Store:
    """A store that runs, and how a table in it is reached; through `port`, which may be a proxy's."""

    kind: str
    port: int
    folder: Path
    process: Optional[subprocess.Popen] = None

    @property
    def speaks_s3(self) -> bool:
        return self.kind in ("s3", "aws")

    def database(self, name: str = "db") -> str:
        scheme = {"s3": "s3", "aws": "s3", "azure": "az", "gcs": "gs"}[self.kind]
        return f"{scheme}://tables/{name}"

    def options(self, port: Optional[int] = None) -> dict:
        url = f"http://127.0.0.1:{port or self.port}"
        if self.speaks_s3:
            return {
                "aws_endpoint": url,
                "aws_access_key_id": S3_KEY,
                "aws_secret_access_key": S3_SECRET,
                "aws_region": "us-east-1",
                "allow_http": "true",
            }
        if self.kind == "azure":
            return {
                "azure_storage_account_name": AZURE_ACCOUNT,
                "azure_storage_account_key": AZURE_SECRET,
                "azure_storage_endpoint": f"{url}/{AZURE_ACCOUNT}",
                "allow_http": "true",
            }
        key = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": GCS_SECRET, "private_key_id": ""}
        return {"google_service_account_key": json.dumps(key), "allow_http": "true"}

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen(self._command(), stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + PATIENCE
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < end, f"{self.kind} does not answer"
            time.sleep(0.05)

    def stop(self, how: int = signal.SIGKILL) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, how)
            self.process.wait(PATIENCE)
            self.process = None

    def _command(self) -> list:
        if self.kind == "s3":
            config = self.folder / "s3.json"
            who = (("tests", S3_KEY, S3_SECRET, ["Admin", "Read", "Write", "List", "Tagging"]),
                   ("reader", READER_KEY, READER_SECRET, ["Read", "List"]))
            identities = [{"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
                          for name, key, secret, actions in who]
            config.write_text(json.dumps({"identities": identities}))
            ports = [f"-{name}={free_port()}" for name in ("master.port", "volume.port", "filer.port")]
            # Left alone, these two are the same for every server on this machine.
            ports += [f"-s3.port.{name}={free_port()}" for name in ("iceberg", "lance")]
            grpc = [f"-{name}={free_port()}" for name in ("master.port.grpc", "volume.port.grpc", "filer.port.grpc", "s3.port.grpc")]
            data = self.folder / "data"
            data.mkdir(exist_ok=True)
            weed = Path(sys.executable).parent / "weed"
            return [
                str(weed), "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.port={self.port}",
                f"-s3.config={config}", "-master.volumeSizeLimitMB=512", "-volume.max=200", "-master.telemetry=false", *ports, *grpc,
            ]
        if self.kind == "aws":
            return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        if self.kind == "azure":
            azurite = Path(sys.executable).parent / "azurite-blob"
            assert azurite.exists(), "azurite is missing: scripts/python installs it"
            return [
                str(azurite), "--blobHost", "127.0.0.1", "--blobPort", str(self.port), "--location", str(self.folder / "data"),
                "--skipApiVersionCheck", "--disableTelemetry", "--silent",
            ]
        return [sys.executable, str(Path(__file__).parent / "gcs.py"), str(self.port), str(self.folder)]

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=2).close()
        except urllib.error.HTTPError:
            pass
        except OSError:
            return False
        return self._make_bucket()

    def _make_bucket(self) -> bool:
        try:
            if self.speaks_s3:
                _s3(self).create_bucket(Bucket="tables")
            elif self.kind == "azure":
                _azure(self).create_container("tables")
        except Exception as error:  # noqa: BLE001 a server that is not up yet answers in many ways
            return "Exist" in f"{type(error).__name__} {error}" or "BucketAlready" in str(error)
        return True

    def listed(self, prefix: str = "") -> dict:
        """Every object, and its size."""
        if self.speaks_s3:
            pages = _s3(self).get_paginator("list_objects_v2").paginate(Bucket="tables", Prefix=prefix)
            return {one["Key"]: one["Size"] for page in pages for one in page.get("Contents", [])}
        if self.kind == "azure":
            found = _azure(self).get_container_client("tables").list_blobs(name_starts_with=prefix)
            return {one.name: one.size for one in found}
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/_all") as answer:
            found = json.load(answer)
        return {name.partition("/")[2]: size for name, size in found.items() if name.partition("/")[2].startswith(prefix)}

    def content(self, name: str) -> bytes:
        """All bytes of an object."""
        if self.speaks_s3:
            return _s3(self).get_object(Bucket="tables", Key=name)["Body"].read()
        if self.kind == "azure":
            return _azure(self).get_blob_client("tables", name).download_blob().readall()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/tables/{quote(name)}") as answer:
            return answer.read()

    def begin_upload(self, name: str) -> None:
        """Begins an upload of an object that nobody ends."""
        if self.speaks_s3:
            _s3(self).create_multipart_upload(Bucket="tables", Key=name)
        else:
            url = f"http://127.0.0.1:{self.port}/tables/{quote(name)}?uploads"
            urllib.request.urlopen(urllib.request.Request(url, method="POST")).close()

    def uploads(self) -> list:
        """Unfinished uploads: what no listing shows, and is paid for. Azure drops them by itself after a week, and has no call for it."""
        if self.speaks_s3:
            return [one["Key"] for one in _s3(self).list_multipart_uploads(Bucket="tables").get("Uploads", [])]
        if self.kind == "azure":
            return []
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/_uploads") as answer:
            return json.load(answer)


def _s3(store: Store):
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{store.port}", aws_access_key_id=S3_KEY, aws_secret_access_key=S3_SECRET,
        region_name="us-east-1", config=Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=20),
    )


def _azure(store: Store):
    from azure.storage.blob import BlobServiceClient

    url = f"http://127.0.0.1:{store.port}/{AZURE_ACCOUNT}"
    return BlobServiceClient(url, credential={"account_name": AZURE_ACCOUNT, "account_key": AZURE_SECRET}, retry_total=0)


@contextlib.contextmanager
def running(kind: str, folder: Path):
    """A store of this kind: `s3`, `aws`, `azure` or `gcs`."""
    store = Store(kind, free_port(), folder / kind)
    os.environ.setdefault("AZURITE_ACCOUNTS", f"{AZURE_ACCOUNT}:{AZURE_SECRET}")
    store.start()
    try:
        yield store
    finally:
        store.stop()


class Stores:
    """Each kind of store, started when it is first asked for."""

    def __init__(self, folder: Path):
        self._folder, self._stack, self.running = folder, contextlib.ExitStack(), {}

    def __enter__(self) -> "Stores":
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def __getitem__(self, kind: str) -> Store:
        if kind not in self.running:
            self.running[kind] = self._stack.enter_context(running(kind, self._folder))
        return self.running[kind]
