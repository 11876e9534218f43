"""A function of a job that writes to Kafka forks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from counting_kafka import Job

PROGRAM = Path(__file__).with_name("forking_kafka.py")


@pytest.mark.parametrize(("way", "code"), [("exit", 7), ("exception", 1), ("_exit", 7)])
def test_a_child_leaves_and_the_job_goes_on(kafka, tmp_path, way, code):
    """Kind (Q3): a child that ends its parent's clients, waits for threads that it does not have, or dies of it."""
    job = Job.make(kafka.bootstrap, tmp_path / "job")
    command = [sys.executable, str(PROGRAM), job.bootstrap, str(job.root), job.name, way]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [str(code)] * 6
    job.check()
