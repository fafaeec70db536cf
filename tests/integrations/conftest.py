"""A fleet that a real Prometheus has scraped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Prometheus that scrapes a simulated fleet."""
    pytest.importorskip("prometheus_client", reason="the extra fleet is not installed")
    from agent.collector.metrics import exposition
    from tests.integrations.prometheus import OWN, scraping, serving
    from tests.integrations.stand_in import fleet

    with serving(exposition(fleet(), OWN)) as page, scraping(tmp_path_factory.mktemp("prometheus"), page) as address:
        yield address
