"""The header that tells a server that a request is one which it has had before.

As of draft-ietf-httpapi-idempotency-key-header, the value is a string of structured fields (RFC 8941, 3.3.3): printable
ASCII in quotation marks.
"""

from __future__ import annotations

import hashlib

import msgspec

from onceflow.sinks import OutputId

__all__ = ["key_of_output", "quoted"]


def key_of_output(job: str, sink: str, output: OutputId) -> str:
    """A key for a record that has none of its own: 32 hexadecimal digits, of this record of output alone.

    The record's identity is fixed by the decision of its checkpoint, and so is the key, whoever sends the request. It
    says nothing of the job to who reads it.
    """
    parts = [job, sink, output.run, output.checkpoint, output.worker, output.number]
    return hashlib.blake2b(msgspec.msgpack.encode(parts), digest_size=16).hexdigest()


def quoted(key: str) -> str:
    """The value of the header.

    Raises:
        ValueError: It is empty, or has characters that the header cannot have.
    """
    if not key or not key.isascii() or not key.isprintable():
        raise ValueError("an idempotency key is printable ASCII, and not empty")
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
