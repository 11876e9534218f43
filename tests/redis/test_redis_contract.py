"""Redis as source and sink keeps the contracts."""

from __future__ import annotations

import json

import pytest
from redis_job import connected

from onceflow.connectors.redis import RedisSink, RedisStreamSink, RedisStreamSource, RedisUpsertSink
from onceflow.testing import IdempotentSinkContract, SourceContract, TransactionalSinkContract


class _OnAServer:
    """Each directory of a contract is a database."""

    @pytest.fixture(autouse=True)
    def _databases(self, redis):
        self._server, self._urls = redis, {}

    def url(self, directory):
        if directory not in self._urls:
            self._urls[directory] = self._server.database()
        return self._urls[directory]


class TestStreamSink(_OnAServer, TransactionalSinkContract):
    def make_sink(self, directory):
        return RedisStreamSink(self.url(directory), "s")

    def visible(self, directory):
        with connected(self.url(directory)) as client:
            return [json.loads(fields[b"value"]) for _, fields in client.xrange("s")]


class TestUpserts(_OnAServer, TransactionalSinkContract):
    def make_sink(self, directory):
        return RedisSink(self.url(directory), key="id")

    def visible(self, directory):
        with connected(self.url(directory)) as client:
            keys = [key for key in client.scan_iter() if not key.startswith(b"onceflow:")]
            return sorted((json.loads(client.get(key)) for key in keys), key=lambda record: record["id"])


class TestUpsertsAtOnce(_OnAServer, IdempotentSinkContract):
    def make_sink(self, directory):
        return RedisUpsertSink(self.url(directory), key="id")

    visible = TestUpserts.visible


class TestSource(_OnAServer, SourceContract):
    options = {"decode": "json", "event_time": "id"}  # noqa: RUF012

    def make_source(self, directory):
        made = directory in self._urls
        url = self.url(directory)
        if not made:
            with connected(url) as client:
                for number in range(40):
                    client.xadd(f"s{number % 2}", {"value": self.value(number)}, id=f"{1_700_000_000_000 + number}-1")
        return RedisStreamSource(url, ["s0", "s1"], **self.options)

    def value(self, number):
        return f'{{"n": {number}}}'


class TestSourceOfEntries(TestSource):
    options = {}  # noqa: RUF012


class TestSourceWithDeadLetters(TestSource):
    options = {"decode": "json", "on_malformed": "dead_letter"}  # noqa: RUF012

    def value(self, number):
        return "no JSON" if number % 5 == 3 else str(number)
