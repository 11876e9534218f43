"""A Redis server: how it is reached, and whether it is one that keeps what it says."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from onceflow.checks import Finding
from onceflow.connectors.extras import require
from onceflow.connectors.waiting import Waiting
from onceflow.exceptions import (
    ConfigurationError,
    OnceflowError,
    SinkError,
    SinkWaitingWarning,
    SourceWaitingWarning,
    described,
)
from onceflow.log.settings import check_seconds, check_whole

if TYPE_CHECKING:
    import redis

__all__ = ["Durability", "RedisAddress", "RedisClient", "check_durability"]

#: ``"required"``: the server must be set so that each write is on its disk before it answers. ``"assumed"``: it is not
#: asked; what it loses is noticed, not prevented.
Durability: TypeAlias = Literal["required", "assumed"]
#: Replies of the client have types for both of its kinds, awaited and not.
RedisClient: TypeAlias = Any

_CONNECT_TIMEOUT_S = 10.0
#: Counts what was added to a stream, and says why something is missing.
_FIRST_VERSION = 7


def _shown(error: Exception, url: object) -> str:
    """What an error says of a URL, if it quotes nothing of it that may be a part of a password."""
    text = described(error)
    quoted = re.findall("'([^']+)'", text)
    place = str(url).partition("?")[0]
    if "@" in str(url) or "password" in str(url).lower() or any(each in place for each in quoted):
        return f"{type(error).__name__}, whose text may have a part of the password"
    return text


@dataclass(frozen=True)
class RedisAddress:
    """Where a server is, and how long it is waited for.

    Args:
        url: As redis-py takes it: ``redis://``, ``rediss://`` or ``unix://``.
        timeout_s: Of one command.
        attempts: Of one command, while the server cannot be reached or is loading its data; with waits of up to a
            second between them.

    Raises:
        ConfigurationError: It is no such URL, or a number cannot be.
        MissingExtraError: redis is not installed.
    """

    url: str
    timeout_s: float
    attempts: int

    def __post_init__(self) -> None:
        require("redis", extra="redis", purpose="a connector to Redis")
        check_seconds("timeout_s", self.timeout_s, above=True)
        check_whole("attempts", self.attempts)
        try:
            self.connect().close()
        except Exception as error:
            raise ConfigurationError(
                f"redis-py takes no such url; give one such as 'redis://127.0.0.1:6379/0': {_shown(error, self.url)}"
            ) from None

    def __repr__(self) -> str:
        return self.shown

    @property
    def shown(self) -> str:
        """Without what is secret."""
        kwargs = self.connect().connection_pool.connection_kwargs
        place = kwargs.get("path") or f"{kwargs.get('host', 'localhost')}:{kwargs.get('port', 6379)}"
        return f"Redis at {place}, database {kwargs.get('db', 0)}"

    def connect(self, waiting: Waiting | None = None) -> redis.Redis:
        """A client, which connects when it is used first.

        Args:
            waiting: Is told when it has to wait for the server.
        """
        import redis  # noqa: PLC0415 - an extra

        from onceflow.connectors.redis.patience import Patience  # noqa: PLC0415 - an extra

        return redis.Redis.from_url(
            self.url,
            decode_responses=False,
            socket_timeout=self.timeout_s,
            socket_connect_timeout=min(self.timeout_s, _CONNECT_TIMEOUT_S),
            retry=Patience(self.attempts, waiting),
            retry_on_error=[redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError],
        )

    def waiting(self, who: str, warning: type[SinkWaitingWarning] | type[SourceWaitingWarning]) -> Waiting:
        """What tells that somebody waits for this server."""
        return Waiting(who, self.shown, f"attempts={self.attempts}", warning)

    @contextlib.contextmanager
    def told(self, error: type[OnceflowError]) -> Iterator[None]:
        """What the client raises, as an error that names the server."""
        import redis  # noqa: PLC0415 - an extra

        try:
            yield
        except redis.RedisError as failure:
            raise error(f"{self.shown}: {type(failure).__name__}: {failure}") from failure

    def findings(self, client: RedisClient, durability: Durability) -> Iterator[Finding]:
        """How the server is set, beside what exactly-once output needs. Changes nothing."""
        info = client.info()
        shown = self.shown
        version = str(info.get("redis_version", "0"))
        if int(version.partition(".")[0]) < _FIRST_VERSION:
            text = f"is of version {version}, and {_FIRST_VERSION} is the oldest that is known to do"
            yield Finding("error", shown, text, "give a newer server")
        if info.get("cluster_enabled"):
            text = "is a node of a cluster, where a marker and what it is about may lie on different nodes"
            yield Finding("error", shown, text, "give a server that has all keys")
        if info.get("role") != "master":
            yield Finding("error", shown, f"is a {info.get('role')}", "give the server that takes writes")
        if durability == "assumed":
            text = "is assumed to keep what it has answered to; what it loses is noticed, not prevented"
            yield Finding("warning", shown, text, "give durability='required' where its settings can be read")
            return
        wanted = {"appendonly": "yes", "appendfsync": "always"}
        settings = self._settings(client, *wanted, "maxmemory", "maxmemory-policy")
        if settings is None:
            text = "does not let its settings be read (CONFIG GET), so nobody knows whether it keeps what it answers to"
            yield Finding("error", shown, text, "allow it, or say durability='assumed' where it is known to be so")
            return
        for name, value in wanted.items():
            if settings.get(name) != value:
                text = f"has {name} {settings.get(name)}: a crash loses writes that it has answered to"
                yield Finding("error", shown, text, f"set {name} {value}")
        policy = settings.get("maxmemory-policy", "")
        if settings.get("maxmemory", "0") != "0" and policy.startswith("allkeys"):
            text = f"has maxmemory-policy {policy}: it may drop output, and markers, to make room"
            yield Finding("error", shown, text, "set maxmemory-policy noeviction, or a volatile one")

    def refuse_unfit(self, client: RedisClient, durability: Durability) -> None:
        """Raises ``SinkError`` for a server that cannot be reached, or cannot keep the guarantee."""
        with self.told(SinkError):
            problems = [each for each in self.findings(client, durability) if each.level == "error"]
        if problems:
            raise SinkError(f"{self.shown} {'; '.join(f'{each.text} ({each.advice})' for each in problems)}")

    def _settings(self, client: RedisClient, *names: str) -> dict[str, str] | None:
        import redis  # noqa: PLC0415 - an extra

        try:
            found = client.config_get(*names)
        except redis.ResponseError:
            return None
        return {_text(name): _text(value) for name, value in found.items()} or None


def check_durability(durability: Durability) -> Durability:
    """The setting, if it is one."""
    if durability not in get_args(Durability):
        raise ConfigurationError(
            f"durability={durability!r}: give one of {', '.join(get_args(Durability))}", setting="durability"
        )
    return durability


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
