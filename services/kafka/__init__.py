"""A real Kafka broker for tests and benchmarks, without containers and without root.

Needs Java 17 or newer and Maven; the jars (43 MB) are fetched once into ``.data`` of the project. From a shell::

    python -m services.kafka        # prints the bootstrap address; ends with Ctrl-C, and its data with it

The broker is a child of the process that started it and ends with it. It listens on loopback only.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from services.process import ServerProcess, ServerStartError, ServerUnavailableError, free_ports

__all__ = ["KafkaBroker", "KafkaNode", "install"]

POM = Path(__file__).with_name("pom.xml")
CACHE = Path(__file__).resolve().parents[2] / ".data" / "kafka"

#: Starts in 4 seconds instead of 8, and leaves the second core alone.
QUICK_START = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
#: The optimising compiler and the collector that Kafka's own start script asks for.
THROUGHPUT = ("-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35")

#: One broker that is its own controller. Internal topics are small and unreplicated, groups do not wait for more
#: members and may lose one within a second, transactions that timed out are aborted within a second instead of ten, and
#: a killed broker may come back after two seconds instead of nine.
PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "250",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": "16777216",
}

_CLUSTER_ID = "b25jZWZsb3ctdGVzdHMhIQ"
_READY = "Kafka Server started"


def install() -> Path:
    """The directory of the broker's jars, fetched if they are not there.

    Raises:
        ServerUnavailableError: Java or Maven is missing, or Maven could not fetch.
    """
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing:
        raise ServerUnavailableError(
            f"a Kafka broker needs {' and '.join(missing)}; on Debian: apt-get install default-jre-headless maven"
        )
    target = CACHE / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    if not target.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        # Whole or not at all, whatever interrupts it and whoever else does it at the same time.
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            jars = Path(scratch) / "jars"
            command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", "-DincludeScope=runtime"]
            fetched = subprocess.run(
                [*command, f"-DoutputDirectory={jars}"], check=False, capture_output=True, text=True
            )
            if fetched.returncode != 0:
                raise ServerUnavailableError(f"Maven could not fetch the broker's jars:\n{fetched.stdout[-2000:]}")
            if not target.is_dir():
                jars.rename(target)
    return target


def listeners(broker: int, controller: int, behind_proxy: int = 0, proxy_port: int | None = None) -> dict[str, str]:
    """Settings of a node's ports, on loopback.

    Args:
        broker: For clients.
        controller: For the other controllers.
        behind_proxy: For a proxy.
        proxy_port: Where clients that ask at the one before are told to come to; None: there is no proxy.
    """
    own = f"PLAINTEXT://127.0.0.1:{broker}"
    settings = {"listeners": f"{own},CONTROLLER://127.0.0.1:{controller}", "advertised.listeners": own}
    if proxy_port is not None:
        settings["listeners"] += f",PROXIED://127.0.0.1:{behind_proxy}"
        settings["advertised.listeners"] += f",PROXIED://127.0.0.1:{proxy_port}"
        settings["listener.security.protocol.map"] = f"{PROPERTIES['listener.security.protocol.map']},PROXIED:PLAINTEXT"
    return settings


class KafkaNode(ServerProcess):
    """A broker, a controller, or both in one process; whoever makes it calls ``configure`` and ``start``.

    Args:
        directory: For its data and its log file; made if missing. ``stop`` deletes the data, the log file stays.
        options: Of the Java machine.

    Attributes:
        bootstrap: Address for clients.
    """

    called = "the broker"
    start_timeout_s = 180.0

    def __init__(self, directory: str | Path, options: tuple[str, ...]) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._data = self._directory / "data"
        super().__init__(self._directory / "broker.log")
        self._java = ["java", *options, "-Dorg.apache.logging.log4j.level=INFO", "-cp", f"{install()}/*"]
        self.bootstrap = ""
        self._config = self._directory / "server.properties"

    def configure(self, properties: Mapping[str, str], *, records: tuple[str, ...] = ()) -> None:
        """Writes its settings, and makes an empty data directory.

        Args:
            properties: Besides those in ``PROPERTIES``, or instead of them.
            records: Arguments of the storage tool: users and features that the cluster begins with.

        Raises:
            ServerStartError: The settings are refused.
        """
        merged = {**PROPERTIES, "log.dirs": str(self._data), **properties}
        self._config.write_text("".join(f"{name}={value}\n" for name, value in merged.items()))
        self._delete_data()
        formatted = subprocess.run(
            [*self._java, "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(self._config), *records],
            check=False,
            capture_output=True,
            text=True,
        )
        if formatted.returncode != 0:
            raise ServerStartError(f"the broker's directory could not be set up:\n{formatted.stderr[-2000:]}")

    def tool(self, name: str, *arguments: str) -> str:
        """Runs one of Kafka's own programs, and returns what it prints.

        Args:
            name: Of its class, such as ``ConfigCommand``.
            arguments: Its arguments.

        Raises:
            CalledProcessError: It has failed.
        """
        command = [*self._java, f"org.apache.kafka.tools.{name}", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    @property
    def address(self) -> str:
        """The same as ``bootstrap``."""
        return self.bootstrap

    def _command(self) -> list[str]:
        return [*self._java, "kafka.Kafka", str(self._config)]

    def _is_ready(self, printed: str) -> bool:
        return _READY in printed

    def _delete_data(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)


class KafkaBroker(KafkaNode):
    """A running broker that is its own controller; a context manager.

    Args:
        directory: For its data and its log file; made if missing. ``stop`` deletes the data, the log file stays.
        options: Of the Java machine: ``QUICK_START`` or ``THROUGHPUT``.
        properties: Settings of the broker besides those in ``PROPERTIES``.
        records: What it begins with: see ``KafkaNode.configure``.
        proxy_port: Clients that ask at ``behind_proxy``, as those of a proxy do, are told to come to this port.

    Attributes:
        bootstrap: Address for clients.
        behind_proxy: Port for a proxy.

    Raises:
        ServerUnavailableError: See ``install``.
        ServerStartError: It did not start.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        options: tuple[str, ...] = QUICK_START,
        properties: Mapping[str, str] | None = None,
        records: tuple[str, ...] = (),
        proxy_port: int | None = None,
    ) -> None:
        super().__init__(directory, options)
        self._properties = dict(properties or {})
        self._records = records
        self.behind_proxy = 0
        self._proxy_port = proxy_port
        self._start_on_free_ports(self._configure)

    def _configure(self) -> None:
        broker, controller, self.behind_proxy = free_ports(3)
        self.bootstrap = f"127.0.0.1:{broker}"
        self.configure(
            {
                "controller.quorum.voters": f"1@127.0.0.1:{controller}",
                **listeners(broker, controller, self.behind_proxy, self._proxy_port),
                **self._properties,
            },
            records=self._records,
        )
