"""A real Kafka broker that asks who comes, over TLS, and lets nobody do anything but what was allowed."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from services.kafka import KafkaBroker, listeners
from services.process import ServerStartError, free_ports

__all__ = ["GuardedBroker", "make_authority"]

_MECHANISM = "SCRAM-SHA-256"
_LISTENER = "listener.name.guarded."


class GuardedBroker(KafkaBroker):
    """A broker with two addresses: whoever comes to ``bootstrap`` may do anything; at ``guarded`` users need a
    password, and rights.

    Args:
        directory: For its data, its log file and its certificates.
        users: Passwords by name.

    Attributes:
        guarded: Address for users: SASL_SSL, SCRAM-SHA-256.
        authority: The certificate that they must trust: PEM.
    """

    def __init__(self, directory: str | Path, users: Mapping[str, str]) -> None:
        self.guarded = ""
        certificates = Path(directory) / "certificates"
        self.authority = make_authority(certificates)
        self._keys = _signed(certificates)
        added = [f"{_MECHANISM}=[name={name},password={password}]" for name, password in users.items()]
        super().__init__(directory, records=tuple(word for each in added for word in ("--add-scram", each)))

    def _configure(self) -> None:
        broker, controller, guarded = free_ports(3)
        self.bootstrap, self.guarded = f"127.0.0.1:{broker}", f"127.0.0.1:{guarded}"
        ports = listeners(broker, controller)
        for name in ("listeners", "advertised.listeners"):
            ports[name] += f",GUARDED://{self.guarded}"
        self.configure(
            {
                **ports,
                "controller.quorum.voters": f"1@127.0.0.1:{controller}",
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_SSL",
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                # The broker itself too.
                "super.users": "User:ANONYMOUS",
                f"{_LISTENER}sasl.enabled.mechanisms": _MECHANISM,
                f"{_LISTENER}{_MECHANISM.lower()}.sasl.jaas.config": (
                    "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                ),
                f"{_LISTENER}ssl.keystore.type": "PEM",
                f"{_LISTENER}ssl.keystore.location": str(self._keys),
            },
            records=self._records,
        )


def make_authority(directory: Path) -> Path:
    """Makes a certificate that signs others; PEM.

    Raises:
        ServerStartError: openssl fails.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made = directory / "authority.pem"
    subject = ["-subj", f"/CN=onceflow tests {directory.name}", "-days", "2"]
    _openssl(["req", "-x509", *_NEW_KEY, *subject, "-keyout", str(directory / "authority.key"), "-out", str(made)])
    return made


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _signed(directory: Path) -> Path:
    """Key and certificate of a server on loopback, in one file."""
    key, request, certificate = (directory / f"server.{ending}" for ending in ("key", "csr", "crt"))
    _openssl(["req", *_NEW_KEY, "-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(request)])
    names = directory / "names"
    names.write_text("subjectAltName=IP:127.0.0.1\n")
    authority = ["-CA", str(directory / "authority.pem"), "-CAkey", str(directory / "authority.key"), "-CAcreateserial"]
    files = ["-in", str(request), "-extfile", str(names), "-out", str(certificate)]
    _openssl(["x509", "-req", "-days", "2", *authority, *files])
    both = directory / "server.pem"
    both.write_text(key.read_text() + certificate.read_text())
    return both


def _openssl(arguments: list[str]) -> None:
    done = subprocess.run(["openssl", *arguments], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise ServerStartError(f"openssl {arguments[0]} has failed:\n{done.stderr[-2000:]}")
