"""How a Kafka cluster is reached: what the clients are given, and what their errors become.

Settings go to librdkafka as they are. Those that a connector must decide itself are refused by name, and so are
unknown ones. Values of settings that are secrets stand in no text of ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from onceflow.connectors.extras import require
from onceflow.connectors.kafka.forks import made
from onceflow.exceptions import ConfigurationError, SinkError, SourceError

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Producer, ThrottleEvent
    from confluent_kafka.admin import AdminClient

__all__ = ["KafkaSettings", "client_library", "error_text", "kafka_error", "topic_of"]

#: What the clients log goes here; silent unless a program asks for it.
_log = logging.getLogger("onceflow.kafka")
_log.addHandler(logging.NullHandler())

#: Parts of the names of settings whose values are secrets.
_SECRET = ("password", "secret", ".pem", "oauthbearer.config", "jaas", "token", "assertion", "private.key")
_OURS = ("bootstrap.servers", "metadata.broker.list", "error_cb", "throttle_cb", "logger")
_HIDDEN = "***"


def client_library() -> ModuleType:
    """``confluent_kafka``.

    Raises:
        MissingExtraError: It is not installed.
    """
    return require("confluent_kafka", extra="kafka", purpose="Kafka")


class KafkaSettings:
    """Address and settings of a cluster, for consumers, producers and admin clients.

    Args:
        bootstrap: ``"host:port"``, several with commas between them.
        config: Settings of librdkafka, such as ``{"security.protocol": "SASL_SSL", "sasl.password": …}``.

    Raises:
        ConfigurationError: They are no such thing, or ``config`` has one that is given otherwise.
    """

    __slots__ = ("_config", "bootstrap")

    def __init__(self, bootstrap: str, config: Mapping[str, Any] | None = None) -> None:
        if not isinstance(bootstrap, str) or not bootstrap.strip():
            raise ConfigurationError(
                f"bootstrap={bootstrap!r}: give the address of a broker, such as 'localhost:9092'", setting="bootstrap"
            )
        if config is not None and not (isinstance(config, Mapping) and all(isinstance(name, str) for name in config)):
            # Without its values.
            raise ConfigurationError(
                f"config is a {type(config).__name__}: give a dict of librdkafka's settings", setting="config"
            )
        self.bootstrap = bootstrap.strip()
        self._config = dict(config or {})
        for name in _OURS:
            if name in self._config:
                how = "give bootstrap=" if "." in name else "the connector sets it itself"
                raise ConfigurationError(f"config has {name!r}: {how}")

    def __repr__(self) -> str:
        return f"KafkaSettings({self.bootstrap!r}, config of {sorted(self._config)})"

    def get(self, name: str) -> Any:
        """What ``config`` has of a name; None if nothing. Not to be shown."""
        return self._config.get(name)

    def merged(
        self,
        fixed: Mapping[str, Any],
        defaults: Mapping[str, Any],
        *,
        instead: Mapping[str, str] | None = None,
        on_error: Callable[[KafkaError], None] | None = None,
        on_throttle: Callable[[ThrottleEvent], None] | None = None,
    ) -> dict[str, Any]:
        """What a client is made of.

        Args:
            fixed: What the connector decides.
            defaults: What it sets where ``config`` does not.
            instead: By names of ``fixed``, what a user gives instead.
            on_error: Called, from within polls, with errors that belong to no message or call.
            on_throttle: Called, from within polls, when a broker holds the client back by a quota.

        Raises:
            ConfigurationError: ``config`` has one of ``fixed``.
        """
        for name in fixed:
            if name in self._config:
                how = (instead or {}).get(name, "the connector sets it itself")
                raise ConfigurationError(f"config has {name!r}: {how}")
        ours: dict[str, Any] = {"bootstrap.servers": self.bootstrap, "logger": _log}
        if on_error is not None:
            ours["error_cb"] = on_error
        if on_throttle is not None:
            ours["throttle_cb"] = on_throttle
        return {**defaults, **self._config, **fixed, **ours}

    def consumer(self, merged: Mapping[str, Any]) -> Consumer:
        """A consumer of what ``merged`` returned.

        Raises:
            ConfigurationError: librdkafka refuses a setting.
        """
        made: Consumer = self._made(client_library().Consumer, merged)
        return made

    def producer(self, merged: Mapping[str, Any]) -> Producer:
        """A producer of what ``merged`` returned.

        Raises:
            ConfigurationError: librdkafka refuses a setting.
        """
        made: Producer = self._made(client_library().Producer, merged)
        return made

    def admin(self, merged: Mapping[str, Any] | None = None) -> AdminClient:
        """An admin client of what ``merged`` returned.

        Raises:
            ConfigurationError: librdkafka refuses a setting.
        """
        kind = require("confluent_kafka.admin", extra="kafka", purpose="Kafka").AdminClient
        made: AdminClient = self._made(kind, self.merged({}, {}) if merged is None else merged)
        return made

    def _made(self, kind: Callable[[dict[str, Any]], Any], merged: Mapping[str, Any]) -> Any:
        try:
            return made(kind, merged)
        except (client_library().KafkaException, TypeError, ValueError) as error:
            # Its text may hold the value; what is raised must not lead to it.
            text = self.redacted(error_text(error))
        raise ConfigurationError(f"Kafka's client refuses its settings: {text}")

    def redacted(self, text: str) -> str:
        """A text without the secrets of these settings."""
        for name, value in self._config.items():
            if any(part in name.lower() for part in _SECRET) and isinstance(value, (str, bytes)) and value:
                text = text.replace(value if isinstance(value, str) else value.decode(errors="replace"), _HIDDEN)
        return text

    @contextmanager
    def errors(self, kind: type[SourceError] | type[SinkError], doing: str) -> Iterator[None]:
        """Whatever the client raises becomes an error of ``kind``: ``{doing}: NAME: text``, without secrets."""
        try:
            yield
        except client_library().KafkaException as error:
            text = self.redacted(error_text(error))
            raise kind(f"{doing}: {text}") from None


def kafka_error(error: object) -> KafkaError | None:
    """The ``KafkaError`` that an exception of the client carries: ask it ``fatal()``, ``retriable()`` and so on.

    What to do is decided by these flags: codes change with versions of brokers. None: it carries none.
    """
    library = client_library()
    if isinstance(error, library.KafkaException):
        error = error.args[0] if error.args else None
    return error if isinstance(error, library.KafkaError) else None


def error_text(error: object) -> str:
    """``NAME: what it says`` of an error of the client."""
    found = kafka_error(error)
    if found is None:
        return f"{type(error).__name__}: {error}"
    return f"{found.name()}: {found.str()}"


def topic_of(topic: object) -> str:
    """The name of a topic, whether there is one of that name or not.

    Raises:
        ConfigurationError: It is no name.
    """
    if not isinstance(topic, str) or not topic:
        raise ConfigurationError(f"topic={topic!r}: give the name of a topic", setting="topic")
    return topic
