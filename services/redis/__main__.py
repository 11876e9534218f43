"""Runs a Redis server until it is interrupted: ``python -m services.redis``; prints its URL."""

from __future__ import annotations

from services.process import run_until_ended
from services.redis import RedisServer

if __name__ == "__main__":
    run_until_ended("redis", RedisServer)
