"""A real Kafka cluster of three brokers on loopback, of which single ones may be killed and started again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from services.kafka import KafkaNode, listeners
from services.process import ServerStartError, free_ports

__all__ = ["KafkaCluster"]

#: Three machines that share one.
SMALL = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

#: Everything on all three, acknowledged by two. Another leader is there two seconds after one was killed; by default it
#: takes eleven.
PROPERTIES = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "controller.quorum.fetch.timeout.ms": "1000",
    "controller.quorum.election.timeout.ms": "500",
}

_SIZE = 3
_TRIES = 3


class KafkaCluster:
    """Three brokers, each of them a controller too; a context manager.

    Args:
        directory: For data and log files; made if missing. ``stop`` deletes the data, the log files stay.
        properties: Settings of each broker besides those in ``PROPERTIES``.
        proxy_ports: Of a proxy for each broker: clients that ask at one of ``behind_proxies``, as those of a proxy do,
            are told to come to these.

    Attributes:
        brokers: Kill and start any one of them; with two of them dead nothing is written.
        bootstrap: Addresses for clients.
        behind_proxies: Port of each broker for its proxy.

    Raises:
        ServerUnavailableError: Java or Maven is missing.
        ServerStartError: They did not start.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        properties: Mapping[str, str] | None = None,
        proxy_ports: Sequence[int] | None = None,
    ) -> None:
        self._proxy_ports = proxy_ports
        self._properties = {**PROPERTIES, **(properties or {})}
        self.brokers = [KafkaNode(Path(directory) / str(number), SMALL) for number in range(1, _SIZE + 1)]
        for left in reversed(range(_TRIES)):
            try:
                self._start()
                return
            except ServerStartError as error:
                self.stop()
                if not left or "Address already in use" not in str(error):
                    raise

    def _start(self) -> None:
        ports = free_ports(3 * _SIZE)
        brokers, controllers, self.behind_proxies = (ports[first::3] for first in range(3))
        voters = ",".join(f"{number}@127.0.0.1:{port}" for number, port in enumerate(controllers, 1))
        self.bootstrap = ",".join(f"127.0.0.1:{port}" for port in brokers)

        def configure(number: int, node: KafkaNode) -> None:
            node.bootstrap = f"127.0.0.1:{brokers[number]}"
            proxy_port = None if self._proxy_ports is None else self._proxy_ports[number]
            ports = listeners(brokers[number], controllers[number], self.behind_proxies[number], proxy_port)
            own = {"node.id": str(number + 1), "controller.quorum.voters": voters}
            node.configure({**own, **ports, **self._properties})

        self._each(configure)
        for node in self.brokers:
            node.launch()
        for node in self.brokers:
            node.wait_until_ready()

    def _each(self, do: Callable[[int, KafkaNode], None]) -> None:
        with ThreadPoolExecutor(_SIZE) as threads:
            list(threads.map(do, range(_SIZE), self.brokers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends all of them and deletes their data."""
        for node in self.brokers:
            # In order each would wait for the others, which are not there any more.
            node.kill()
            node.stop()
