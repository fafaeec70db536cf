"""A real Prometheus where there is one, and Prometheus' own client as a reader of its text format."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.collector.intake import Counts
from agent.collector.metrics import CONTENT_TYPE
from agent.demo_broker import free_port

Samples = dict[str, list[tuple[dict[str, str], float]]]

OWN = Counts(received=120, stored=118, refused=2, receipts=40)


def samples(text: bytes) -> Samples:
    """Return series by name, as Prometheus' client reads them."""
    found: Samples = {}
    seen = set()
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in seen, f"{key} comes twice"
            seen.add(key)
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name}: not installed (Debian's package prometheus)")
    return found


@contextmanager
def scraping(folder: Path, target: str) -> Iterator[str]:
    """Give the address of a real Prometheus that scrapes host:port. Skips by name where there is none."""
    binary = program("prometheus")
    configuration = folder / "prometheus.yml"
    configuration.write_text(
        "global: {scrape_interval: 1s}\nscrape_configs:\n- job_name: boardfit\n  static_configs:\n"
        f"  - targets: ['{target}']\n"
    )
    port = free_port()
    process = subprocess.Popen(
        [
            binary,
            f"--config.file={configuration}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def serving(body: bytes) -> Iterator[str]:
    """Give host:port of a page with these metrics."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    page = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{page.server_port}"
    page.shutdown()


def ask(address: str, expression: str, until: float) -> list[Any]:
    """Ask Prometheus until it has something to say."""
    url = f"{address}/api/v1/query?query={urllib.parse.quote(expression)}"
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url) as answer:
                result = json.load(answer)["data"]["result"]
        except OSError:
            result = []
        if result:
            return list(result)
        threading.Event().wait(0.1)
    pytest.fail(f"Prometheus has nothing for {expression}")
