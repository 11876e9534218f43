"""Real servers and a job that writes to all of them, and what happens to both: kills, stops, cuts, delays.

All that is random is drawn from one seed: what happens, in which order, and how long it waits in between. Where a job
is by then is up to the machine.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

sys.path.extend(str(Path(__file__).parents[1] / beside) for beside in ("", "kafka", "http"))

from lives import Life, no_survivors
from many_sinks import TRANSACTION_S, Addresses, Input, Wrong, create, feed, follow, judge, report, run, run_calm
from services.kafka import KafkaBroker
from services.kafka.cluster import KafkaCluster
from services.postgres import PostgresServer
from services.proxy import Proxy
from services.redis import RedisServer
from serving import ServerProcess as HttpServer

__all__ = ["Brokers", "Figures", "Wrong", "run_rough"]

Brokers = Literal["one", "three"]
_LONG_S = 120.0
#: On a busy machine a life connects only after a while.
_START_S = 30.0
#: What a life may be told when another one is stopped, or has taken over: it is refused, and says why.
_REPLACED = ("FencedError", "StoreLockedError", "has taken over", "has been committing for", "holds the writer lock")


@dataclass(slots=True)
class Figures:
    """What there was, and what came of it.

    Attributes:
        brokers: ``"one"`` or ``"three"``.
        seconds: From the first record to the last check.
        records: Of the input.
        repeated: Of them, those that the client which wrote them has written more than once.
        happened: How often what happened.
        stopped: Lives that ended by themselves, by the error: their servers were away at their start, or for too long.
        wrong: By target.
        operations: Of the history; ``anomalies`` is what was wrong in it.
        memory_mib: Resident, of the job that is not killed: soon after its start, at the end, and at most.
    """

    brokers: Brokers
    seconds: float = 0.0
    records: int = 0
    repeated: int = 0
    happened: Counter[str] = field(default_factory=Counter)
    stopped: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, Wrong] = field(default_factory=dict)
    operations: int = 0
    anomalies: str = ""
    memory_mib: tuple[float, float, float] = (0, 0, 0)

    @property
    def is_exact(self) -> bool:
        """Nothing is lost, doubled or contradicts itself anywhere."""
        return not self.anomalies and all(each == Wrong() for each in self.wrong.values())


class Servers:
    """The servers, each behind a proxy of its own."""

    def __init__(self, root: Path, brokers: Brokers, stack: ExitStack) -> None:
        self._brokers = brokers
        self._broker_proxies = [stack.enter_context(Proxy()) for _ in range(3 if brokers == "three" else 1)]
        ports = [proxy.port for proxy in self._broker_proxies]
        kafka: KafkaBroker | KafkaCluster
        if brokers == "three":
            kafka = stack.enter_context(KafkaCluster(root / "kafka", proxy_ports=ports))
            self.nodes: list[Any] = list(kafka.brokers)
            behind = kafka.behind_proxies
        else:
            kafka = stack.enter_context(KafkaBroker(root / "kafka", proxy_port=ports[0]))
            self.nodes, behind = [kafka], [kafka.behind_proxy]
        for proxy, port in zip(self._broker_proxies, behind, strict=True):
            proxy.target = port
        self.postgres = stack.enter_context(PostgresServer(settings={"fsync": "off"}))
        self.redis = stack.enter_context(RedisServer())
        self.http = HttpServer(root)
        stack.callback(self.http.kill)
        addresses = {"postgres": self.postgres.dsn, "redis": self.redis.url, "http": self.http.url}
        self.direct = Addresses(kafka.bootstrap, **addresses, sqlite=root / "rows.sqlite")
        self.proxies = list(self._broker_proxies)
        for name, address in addresses.items():
            proxy = stack.enter_context(Proxy(messages=False))
            # The only number behind a colon.
            before, _, rest = address.rpartition(":")
            port, _, path = rest.partition("/")
            proxy.target = int(port)
            addresses[name] = f"{before}:{proxy.port}/{path}"
            self.proxies.append(proxy)
        through = ",".join(f"127.0.0.1:{port}" for port in ports)
        self.proxied = replace(self.direct, kafka=through, **addresses)

    @property
    def cuts(self) -> int:
        return sum(proxy.cuts for proxy in self.proxies)


class Rough:
    """A job and its servers; ``happen`` lets the next thing happen to them."""

    def __init__(self, root: Path, servers: Servers, figures: Figures, chance: random.Random) -> None:
        self._root = root
        self._servers = servers
        self._figures = figures
        self._chance = chance
        self._job = self._begin()
        #: Something has happened to the servers during the job's life.
        self._is_excused = False
        self._events: list[tuple[int, Callable[[], None]]] = [
            (30, self._job_killed),
            (8, self._job_replaced),
            (4, self._job_ended),
            (4, self._job_down_for_long),
            (10, self._broker_killed),
            (3 if len(servers.nodes) > 1 else 0, self._all_brokers_killed),
            (10, lambda: self._server_killed("PostgreSQL", servers.postgres)),
            (6, lambda: self._server_killed("Redis", servers.redis)),
            (4, lambda: self._server_killed("the HTTP server", servers.http)),
            (12, self._connections_cut),
            (6, self._held_back),
            (4, self._delayed),
        ]

    def happen(self) -> None:
        """One thing, after a while."""
        self._wait(self._chance.uniform(0.1, 2.0))
        [event] = self._chance.choices([event for _, event in self._events], [weight for weight, _ in self._events])
        event()

    def end(self) -> None:
        """The job takes what is left, undisturbed."""
        for proxy in self._servers.proxies:
            proxy.heal()
        self._noted(self._job.kill())
        self._job = Life(lambda: run(self._root, self._servers.proxied, follow=False))
        assert self._job.wait(10 * _LONG_S) == "done", self._job.error

    def _begin(self) -> Life:
        self._is_excused = False
        return Life(lambda: run(self._root, self._servers.proxied, follow=True))

    def _wait(self, seconds: float) -> None:
        """So long, with a job that is begun again if it ends."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._job.step(left) is not None:
                self._noted(self._job.end)
                # What keeps it from starting may last.
                time.sleep(0.2)
                excused, self._job = self._is_excused, self._begin()
                self._is_excused = excused

    def _noted(self, end: str | None) -> None:
        if end not in ("killed", "done", "SIGTERM", None):
            assert self._is_excused, f"the job ended by {end}, and nothing had happened:\n{self._job.error}"
            self._figures.stopped[end] += 1

    def _count(self, what: str) -> None:
        self._figures.happened[what] += 1

    # -- the job ---------------------------------------------------------------------------------

    def _job_killed(self) -> None:
        self._noted(self._job.kill())
        self._count("job killed")
        self._job = self._begin()

    def _job_ended(self) -> None:
        if self._job.step(0) is None:
            os.kill(self._job.pid, signal.SIGTERM)
            self._job.step(2)
        self._noted(self._job.kill())
        self._count("job ended by SIGTERM")
        self._job = self._begin()

    def _job_down_for_long(self) -> None:
        self._noted(self._job.kill())
        # The broker looks every second.
        time.sleep(TRANSACTION_S + 2)
        self._count("job down for longer than a transaction may last")
        self._job = self._begin()

    def _job_replaced(self) -> None:
        """It is stopped, another run takes over, and it wakes: one of them ends, and the other one goes on."""
        older = self._job
        if older.step(0) is not None:
            return
        os.kill(older.pid, signal.SIGSTOP)
        newer = self._begin()
        newer.step(self._chance.uniform(0.2, 4.0))
        older.wake()
        until = time.monotonic() + _LONG_S
        while older.step(0.05) is None and newer.step(0.05) is None:
            assert time.monotonic() < until, "a run that was replaced does not notice it"
        ended, self._job = (older, newer) if older.end is not None else (newer, older)
        assert ended.end == "FencedError" or any(text in ended.error for text in _REPLACED), ended.error
        self._count("job stopped, replaced and woken")

    # -- the servers -----------------------------------------------------------------------------

    def _broker_killed(self) -> None:
        number = self._chance.randrange(len(self._servers.nodes))
        self._server_killed("a broker", self._servers.nodes[number])

    def _all_brokers_killed(self) -> None:
        self._is_excused = True
        for node in self._servers.nodes:
            node.kill()
        self._wait(self._chance.uniform(0, 2.0))
        for node in self._servers.nodes:
            node.launch()
        for node in self._servers.nodes:
            node.wait_until_ready()
        self._count("all three brokers killed")

    def _server_killed(self, name: str, server: Any) -> None:
        self._is_excused = True
        server.kill()
        self._wait(self._chance.uniform(0, 3.0))
        server.start()
        self._count(f"{name} killed")

    def _connections_cut(self) -> None:
        self._is_excused = True
        most = self._chance.choice([3_000, 10_000, 50_000])
        for proxy in self._servers.proxies:
            proxy.cut(self._chance, 500, most)
        # Those that are open already go on, so another life begins within it.
        before = self._servers.cuts
        self._job_killed()
        self._is_excused = True
        self._wait(self._chance.uniform(2.0, 5.0))
        until = time.monotonic() + _START_S
        while self._servers.cuts == before and time.monotonic() < until:
            self._wait(0.2)
        for proxy in self._servers.proxies:
            proxy.heal()
        self._count("connections made to be cut")

    def _held_back(self) -> None:
        self._is_excused = True
        held = self._chance.sample(self._servers.proxies, self._chance.randint(1, len(self._servers.proxies)))
        for proxy in held:
            proxy.hold()
        self._wait(self._chance.uniform(0.5, TRANSACTION_S + 3))
        for proxy in held:
            proxy.heal()
        self._count("traffic held back")

    def _delayed(self) -> None:
        self._is_excused = True
        for proxy in self._servers.proxies:
            proxy.delay(self._chance, 0.05)
        self._wait(self._chance.uniform(1.0, 4.0))
        for proxy in self._servers.proxies:
            proxy.heal()
        self._count("traffic delayed")


@no_survivors()
def run_rough(
    root: Path,
    *,
    brokers: Brokers,
    seconds: float,
    rate: float,
    seed: int,
    told: Callable[[Figures], None] = lambda figures: None,
) -> Figures:
    """Servers, jobs, and what happens to them, for so long; then all is let through and looked at.

    Args:
        root: An empty directory.
        brokers: One, or a cluster of three.
        seconds: How long things happen.
        rate: Records a second.
        seed: Of all that is random.
        told: Called after each thing that has happened.

    Raises:
        AssertionError: A job, or a client, ended as it must not. What the targets show is in the figures.
    """
    figures = Figures(brokers)
    chance = random.Random(seed)
    with ExitStack() as stack:
        servers = Servers(root, brokers, stack)
        at = servers.direct
        made = Life(lambda: create(at))
        assert made.wait() == "done", made.error
        began_s = time.monotonic()
        feeder, follower = Life(lambda: feed(root, at, rate)), Life(lambda: follow(root, at))
        calm = Life(lambda: run_calm(root, at, follow=True))
        while not (root / "memory").exists():
            # At a start all servers must be there.
            assert calm.step(0.1) is None, calm.error
            assert time.monotonic() < began_s + _LONG_S, "the job that is not killed reads nothing"
        rough = Rough(root, servers, figures, chance)
        while time.monotonic() < began_s + seconds:
            rough.happen()
            told(figures)
            for life in (feeder, follower, calm):
                assert life.step(0) is None, life.error
        (root / "stop").touch()
        assert feeder.wait(_LONG_S) == "done", feeder.error
        rough.end()
        assert calm.kill() == "killed", calm.error
        calm = Life(lambda: run_calm(root, at, follow=False))
        assert calm.wait(_LONG_S) == "done", calm.error
        (root / "through").touch()
        assert follower.wait(_LONG_S) == "done", follower.error
        figures.happened["connections cut"] = servers.cuts
        figures.records = int((root / "fed").read_text())
        given = Input.read(root, at)
        figures.repeated = len(given.repeated)
        figures.wrong = judge(at, given, root / "server.sqlite")
        said, own = report(root, at, given)
        figures.operations = said.operations
        figures.anomalies = str(said) if own or said.unseen else ""
        figures.seconds = time.monotonic() - began_s
        figures.memory_mib = _memory(root / "memory")
    return figures


def _memory(path: Path) -> tuple[float, float, float]:
    """Resident MiB: after a tenth of the time, at the end, and at most."""
    sizes = [int(line.split()[1]) / 1024 for line in path.read_text().splitlines()]
    # The last life of the job only reads the end.
    return sizes[len(sizes) // 10], sizes[-2 if len(sizes) > 1 else -1], max(sizes)
