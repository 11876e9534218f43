"""Exactly-once stream processing for Python on a Rust state backend."""

from __future__ import annotations
