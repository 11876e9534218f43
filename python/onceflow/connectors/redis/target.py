"""Output and markers in one step of a server: a script, which Redis carries out without anything in between.

What is not undone
------------------
Redis has no rollback: a command that fails within MULTI or a script leaves what was done before it. So the script
compares markers and looks at the types of all keys before its first write. What a server refuses for reasons of its own
(no room, a replica, a disk that cannot be written) it refuses at the first write of a script. The file that it writes
has the whole of a script, or, cut off by a crash, nothing of it.

A script stands on what the markers were when this client read them, and changes nothing where they are others by then.
So it does not matter how often it arrives: a client that has not heard an answer sends it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from onceflow.connectors.outbox import Marker, OutboxTarget
from onceflow.connectors.redis.server import Durability, RedisAddress, RedisClient
from onceflow.crash import crash_point
from onceflow.exceptions import SinkError, SinkWaitingWarning

__all__ = ["MARKERS", "MAX_WORDS", "Command", "RedisTarget"]

#: What begins the name of a key that holds markers, with the owner behind it.
MARKERS = "onceflow:markers:"

#: An even number. A script calls a command with fewer than 8,000 words, and what fails in it is not undone.
MAX_WORDS = 4000

_ATTEMPTS = 10

_SCRIPT = """
local commands = {}
local at = 5
while at <= #ARGV do
  local kind, size = ARGV[at], tonumber(ARGV[at + 1])
  local command = {unpack(ARGV, at + 2, at + 1 + size)}
  at = at + 2 + size
  if kind ~= '' then
    local there = redis.call('TYPE', command[2])['ok']
    if there ~= 'none' and there ~= kind then
      return {'type', command[2], there, kind}
    end
  end
  commands[#commands + 1] = command
end
if ARGV[2] == '' then
  return {'ok'}
end
local function kept(key)
  return redis.call('HGET', KEYS[1], key) or ''
end
if kept('fence') ~= ARGV[1] or kept(ARGV[2]) ~= ARGV[3] then
  return {'changed'}
end
for _, command in ipairs(commands) do
  redis.call(unpack(command))
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
return {'ok'}
"""


class Command(NamedTuple):
    """A command to Redis.

    Attributes:
        kind: The type that its key must have, if there is one; empty: any.
        words: Name of the command, key, and the rest.
    """

    kind: str
    words: tuple[bytes, ...]


class RedisTarget(OutboxTarget):
    """See ``onceflow.connectors.outbox``.

    Args:
        address: Of the server.
        durability: Whether its settings are looked at.
        commands: Of records; raises ``SinkError``.

    Raises:
        SinkError: It cannot be reached, or is not one that can keep the guarantee.
    """

    def __init__(
        self, address: RedisAddress, durability: Durability, commands: Callable[[list[Any]], Iterator[Command]]
    ) -> None:
        self._address = address
        self._commands = commands
        self._waiting = address.waiting("RedisSink", SinkWaitingWarning)
        self._client: RedisClient = address.connect(self._waiting)
        try:
            address.refuse_unfit(self._client, durability)
        except BaseException:
            self.close()
            raise
        self._script = self._client.register_script(_SCRIPT)

    def read_markers(self, owner: str) -> dict[str, str]:
        self._waiting.who = f"sink {owner!r}"
        with self._address.told(SinkError):
            kept = self._client.hgetall(MARKERS + owner)
        return {key.decode(): text.decode() for key, text in kept.items()}

    def fence(self, marker: Marker) -> None:
        self._carry_out([], marker)

    def apply(self, records: list[Any], marker: Marker) -> None:
        self._carry_out(list(self._commands(records)), marker)

    def check(self, records: list[Any]) -> None:
        # All are made, which refuses records; of the server only types are asked.
        keys = dict.fromkeys(Command(each.kind, (b"", each.words[1])) for each in self._commands(records) if each.kind)
        if keys:
            self._told_types(self._run(MARKERS, "", "", "", "", list(keys)))

    def owners(self) -> list[str]:
        with self._address.told(SinkError):
            return [
                key.decode().removeprefix(MARKERS) for key in self._client.scan_iter(match=f"{MARKERS}*", count=1000)
            ]

    def forget(self, owner: str) -> None:
        with self._address.told(SinkError):
            self._client.delete(MARKERS + owner)

    def close(self) -> None:
        self._client.close()

    def _carry_out(self, commands: Sequence[Command], marker: Marker) -> None:
        for _ in range(_ATTEMPTS):
            kept = self.read_markers(marker.owner)
            if not marker.is_due(kept):
                return
            crash_point("redis.pre_script")
            fence, there = kept.get("fence", ""), kept.get(marker.key, "")
            said = self._run(MARKERS + marker.owner, fence, marker.key, there, marker.text, commands)
            crash_point("redis.post_script")
            self._told_types(said)
            if said[0] == b"ok":
                return
        raise SinkError(f"{self._address.shown}: the markers of {marker.owner!r} do not stop changing")

    def _run(self, key: str, fence: str, name: str, there: str, text: str, commands: Sequence[Command]) -> list[bytes]:
        with self._address.told(SinkError):
            said: list[bytes] = self._script(keys=[key], args=[fence, name, there, text, *_words(commands)])
        return said

    def _told_types(self, said: list[bytes]) -> None:
        if said[0] == b"type":
            _, key, there, kind = (each.decode(errors="backslashreplace") for each in said)
            raise SinkError(
                f"{self._address.shown}: key {key!r} holds a {there}, and what is to be written is of a {kind}: delete "
                "or rename that key, and run the job again; nothing of this checkpoint was written"
            )


def _words(commands: Sequence[Command]) -> Iterator[bytes]:
    for command in commands:
        yield command.kind.encode()
        yield str(len(command.words)).encode()
        yield from command.words
