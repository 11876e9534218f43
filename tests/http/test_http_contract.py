"""A server that honours keys of records keeps the contract of idempotent sinks."""

from __future__ import annotations

import pytest

from onceflow.connectors.http import HttpSink
from onceflow.testing import IdempotentSinkContract


class TestKeysOfRecords(IdempotentSinkContract):
    @pytest.fixture(autouse=True)
    def _one_server(self, server):
        self._server = server

    def make_sink(self, directory):
        return HttpSink(self._server.url, idempotency_key=lambda record: f"{record['id']}", concurrency=1)

    def visible(self, directory):
        return self._server.effects()
