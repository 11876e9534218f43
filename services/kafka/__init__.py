"""A real Kafka broker for tests and benchmarks, without containers and without root.

Needs Java 17 or newer and Maven; the jars (43 MB) are fetched once into ``.data`` of the project. From a shell::

    python -m services.kafka        # prints the bootstrap address; ends with Ctrl-C, and its data with it

The broker is a child of the process that started it and ends with it. It listens on loopback only.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

__all__ = ["KafkaBroker", "KafkaStartError", "KafkaUnavailableError", "install"]

POM = Path(__file__).with_name("pom.xml")
CACHE = Path(__file__).resolve().parents[2] / ".data" / "kafka"

#: Starts in 4 seconds instead of 8, and leaves the second core alone.
QUICK_START = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
#: The optimising compiler and the collector that Kafka's own start script asks for.
THROUGHPUT = ("-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35")

#: One broker that is its own controller. Internal topics are small and unreplicated, groups do not wait for more
#: members, transactions that timed out are aborted within a second instead of ten, and a killed broker may come back
#: after two seconds instead of nine.
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
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": "16777216",
}

_CLUSTER_ID = "b25jZWZsb3ctdGVzdHMhIQ"
_READY = "Kafka Server started"
_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 30.0
_TRIES = 3


class KafkaUnavailableError(Exception):
    """This machine cannot run a broker; the text says what to install."""


class KafkaStartError(Exception):
    """The broker ended or did not become ready; the text has the end of its log."""


def install() -> Path:
    """The directory of the broker's jars, fetched if they are not there.

    Raises:
        KafkaUnavailableError: Java or Maven is missing, or Maven could not fetch.
    """
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing:
        raise KafkaUnavailableError(
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
                raise KafkaUnavailableError(f"Maven could not fetch the broker's jars:\n{fetched.stdout[-2000:]}")
            if not target.is_dir():
                jars.rename(target)
    return target


class KafkaBroker:
    """A running broker; a context manager.

    Args:
        directory: For its data and its log file; made if missing. ``stop`` deletes the data.
        options: Of the Java machine: ``QUICK_START`` or ``THROUGHPUT``.
        properties: Settings of the broker besides those in ``PROPERTIES``.

    Attributes:
        bootstrap: Address for clients.

    Raises:
        KafkaUnavailableError: See ``install``.
        KafkaStartError: It did not start.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        options: tuple[str, ...] = QUICK_START,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._data = self._directory / "data"
        self.log = self._directory / "broker.log"
        self._java = ["java", *options, "-Dorg.apache.logging.log4j.level=INFO", "-cp", f"{install()}/*"]
        self._properties = dict(properties or {})
        self.bootstrap = ""
        self._process: subprocess.Popen[bytes] | None = None
        for left in reversed(range(_TRIES)):
            try:
                self._configure()
                self.start()
                return
            except KafkaStartError as error:
                # Somebody took a port between our look and the broker's.
                if not left or "Address already in use" not in str(error):
                    raise

    def __enter__(self) -> KafkaBroker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _configure(self) -> None:
        broker, controller = _free_ports(2)
        self.bootstrap = f"127.0.0.1:{broker}"
        properties = {
            **PROPERTIES,
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{broker}",
            "log.dirs": str(self._data),
            **self._properties,
        }
        self._config = self._directory / "server.properties"
        self._config.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        shutil.rmtree(self._data, ignore_errors=True)
        formatted = subprocess.run(
            [*self._java, "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(self._config)],
            check=False,
            capture_output=True,
            text=True,
        )
        if formatted.returncode != 0:
            raise KafkaStartError(f"the broker's directory could not be set up:\n{formatted.stderr[-2000:]}")

    def start(self) -> None:
        """Starts it again on the same address and data, after ``kill``."""
        # It must not outlive a caller that is killed.
        leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*leash, *self._java, "kafka.Kafka", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while _READY not in (text := self.log.read_text(errors="replace")):
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.kill()
                raise KafkaStartError(f"the broker {'ended' if ended else 'is not ready'}:\n{text[-3000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Ends it by SIGKILL and keeps the data; ``start`` brings it back."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it and deletes its data; the log file stays."""
        self._end(signal.SIGTERM)
        shutil.rmtree(self._data, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def pid(self) -> int:
        """Of the running broker."""
        if self._process is None:
            raise KafkaStartError("the broker is not running")
        return self._process.pid


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
