"""Train a scikit-learn model, register it, and use it with nothing but the data in the registry.

    python examples/sklearn_iris.py

The registry is at MODEL_REGISTRY_URL, or at http://localhost:8000, where `make dev` starts one.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import joblib  # type: ignore[import-untyped]
import numpy as np
import sklearn
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

URL = os.environ.get("MODEL_REGISTRY_URL", "http://localhost:8000")
MODEL_NAME = "iris-classifier"
FILENAME = "model.joblib"

Array = np.ndarray[Any, Any]


def main() -> None:
    measures, species = load_iris(return_X_y=True)
    train, test, train_species, test_species = train_test_split(measures, species, test_size=0.2, random_state=1)
    pipeline = Pipeline([("scaler", StandardScaler()), ("classifier", LogisticRegression(max_iter=200))])
    pipeline.fit(train, train_species)
    accuracy = float(pipeline.score(test, test_species))
    expected: Array = pipeline.predict(test)
    print(f"trained    a classifier with accuracy {accuracy:.3f}")

    with TemporaryDirectory() as folder, httpx.Client(base_url=URL, timeout=60) as registry:
        trained = Path(folder, FILENAME)
        joblib.dump(pipeline["classifier"], trained)
        register(registry, trained, pipeline, accuracy)

        # From here on the code knows only the name of the model, like any other user.
        info = checked(registry.get(f"/get_latest_model_info/{MODEL_NAME}")).json()
        print(f"latest     is {info['version']}, registered at {info['ready_at']}")

        fetched = Path(folder, "fetched.joblib")
        download(registry, info, fetched)
        print(f"downloaded {info['size_bytes']} bytes with digest {info['digest']}")

        # A pickle runs code when it is loaded, so load it only after it is verified.
        classifier = joblib.load(fetched)
        standardization = info["standardization_params"]
        standardized = (test - standardization["mean"]) / standardization["scale"]
        if not np.array_equal(classifier.predict(standardized), expected):
            sys.exit("error: the model from the registry has other predictions than the trained model.")
        print(f"predicted  {len(test)} species, the same as the trained pipeline")


def register(registry: httpx.Client, trained: Path, pipeline: Pipeline, accuracy: float) -> None:
    with trained.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    # The label and the key depend on the bytes, and the training is deterministic. So a job that runs again registers
    # the same version and gets the first response. Different bytes are another version. Among labels like this, which
    # are not numbers, the last registered one is the latest.
    version = f"sha-{sha256[:12]}"
    scaler, classifier = pipeline["scaler"], pipeline["classifier"]
    fields = {
        "model_name": MODEL_NAME,
        "version": version,
        "standardization_params": {"mean": scaler.mean_.tolist(), "scale": scaler.scale_.tolist()},
        "model_params": classifier.get_params(),
        "additional_metadata": {
            "framework": f"scikit-learn {sklearn.__version__}",
            "dataset": "iris",
            "metrics": {"accuracy": accuracy},
        },
    }
    with trained.open("rb") as file:
        # httpx sends the fields before the file, so a conflict is known before the file is sent.
        response = registry.post(
            "/register_model",
            data={name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()},
            files={"model_file": (FILENAME, file)},
            headers={"Idempotency-Key": sha256},
        )
    # The registry keeps keys for a week. After that a repetition conflicts with its own first registration.
    digest = manifest_digest(sha256, trained.stat().st_size, FILENAME)
    if response.status_code == 409 and response.json().get("digest") == digest:
        print(f"registered {MODEL_NAME} {version} some time ago")
    else:
        print(f"registered {MODEL_NAME} {checked(response).json()['version']}")


def download(registry: httpx.Client, info: dict[str, Any], to: Path) -> None:
    """Download the file of a version with one file, and verify it."""
    sha256 = hashlib.sha256()
    with registry.stream("GET", info["download_url"]) as response, to.open("wb") as file:
        if response.is_error:
            response.read()
        for chunk in checked(response).iter_bytes():
            sha256.update(chunk)
            file.write(chunk)
    [entry] = info["files"]
    if f"sha256:{sha256.hexdigest()}" != entry["sha256"]:
        sys.exit(f"error: {entry['path']} has the sha256 {sha256.hexdigest()}, but {entry['sha256']} is registered.")
    if manifest_digest(sha256.hexdigest(), to.stat().st_size, entry["path"]) != info["digest"]:
        sys.exit(f"error: the files do not have the digest {info['digest']}.")


def manifest_digest(sha256: str, size_bytes: int, path: str) -> str:
    """Return the digest of a version with one file. With several files there is a line for each, sorted by path."""
    manifest = f"{sha256}  {size_bytes}  {path}\n"
    return f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}"


def checked(response: httpx.Response) -> httpx.Response:
    """Return the response, or exit with its `detail` if it is an error."""
    if response.is_error:
        is_problem = response.headers.get("Content-Type") == "application/problem+json"
        detail = response.json()["detail"] if is_problem else response.reason_phrase
        sys.exit(f"error: {response.request.method} {response.url}: {response.status_code}: {detail}")
    return response


if __name__ == "__main__":
    try:
        main()
    except (httpx.TransportError, httpx.InvalidURL) as error:
        sys.exit(
            f"error: no response from {URL} ({error}). `make dev` starts a registry, MODEL_REGISTRY_URL names one."
        )
