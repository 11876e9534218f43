"""What a running job tells, as metrics for Prometheus (extra ``metrics``).

Counters count what this process has done, so they never fall: what a restart or a resumed run processes again counts
again. How far the job is as a whole is in ``JobResult`` and its checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from onceflow.connectors.extras import require
from onceflow.events import (
    CheckpointCompleted,
    CheckpointFailed,
    JobEvent,
    Progress,
    Recovered,
    Restarting,
    Stopping,
)
from onceflow.exceptions import ConfigurationError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["JobMetrics"]

_HIGHEST_PORT = 65535
#: Bounds of the histograms of durations, in seconds.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class JobMetrics:
    """Metrics of one job; ``on_event`` is for ``run``, and a context manager ends what ``port`` has begun.

    Args:
        job: Value of the label ``job``.
        port: They are served there by HTTP, under any path; 0: a port that is free, see the attribute ``port``. None:
            nowhere, for a program that serves the registry itself.
        address: Where the port is. Whoever can reach it can read the metrics.
        registry: Where they are registered; one job a registry. None: a registry of their own.
        now: Seconds since 1970 UTC.

    Attributes:
        registry: See above.
        port: Where they are served; None: nowhere.

    Raises:
        MissingExtraError: The extra ``metrics`` is not installed.
        ConfigurationError: The port cannot be had.
    """

    def __init__(
        self,
        job: str,
        *,
        port: int | None = None,
        address: str = "127.0.0.1",
        registry: CollectorRegistry | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        client = require("prometheus_client", extra="metrics", purpose="JobMetrics")
        self.registry = client.CollectorRegistry() if registry is None else registry
        self._job = job
        self._client = client
        self._now = now
        #: What was told last of what is counted, by metric and step.
        self._told: dict[tuple[str, str], int] = {}
        self._has_begun = False
        self._event_time_s: float | None = None
        self._last_checkpoint_s: float | None = None

        self._records = {
            "records_in": self._counter("records_in", "Records that sources have handed to the dataflow."),
            "records_out": self._counter("records_out", "Records that have reached a sink."),
            "rejected": self._counter(
                "records_rejected", "Malformed records, handed to dead letters of their sources."
            ),
            "skipped": self._counter("records_skipped", "Malformed records that were only counted."),
            "raised": self._counter(
                "records_raised", "Records whose functions raised, handed to dead letters of steps."
            ),
        }
        self._late = self._counter("records_late", "Records that came too late for their windows.", "step")
        self._completed = self._counter(
            "checkpoints_completed", "Checkpoints that are decided, and committed by sinks."
        )
        self._failed = self._counter(
            "checkpoints_failed", "Checkpoints that were given up, or not committed by a sink."
        )
        self._restarts = self._counter("restarts", "Times that the run has failed and was begun again.")
        self._bytes = self._counter("checkpoint_bytes", "Bytes of state that checkpoints have written.")
        self._durations = {
            "durable_s": self._histogram(
                "checkpoint_duration_seconds", "From a checkpoint's cut to its durable decision."
            ),
            "sync_s": self._histogram(
                "checkpoint_sync_seconds", "What the cut of a checkpoint kept the job from its records."
            ),
            "async_s": self._histogram(
                "checkpoint_async_seconds", "Encoding and writing of a checkpoint, beside the job."
            ),
        }
        self._held = self._gauge(
            "sink_held_bytes", "Bytes that a sink holds in memory until they are committed.", "step"
        )
        self._busy = self._gauge("busy_ratio", "Share of the time that the worker was at work.")
        self._backpressured = self._gauge(
            "backpressured_ratio", "Share of the time that the worker waited for its sinks."
        )
        self._age = self._gauge("last_checkpoint_age_seconds", "Seconds since the last checkpoint of this process.")
        self._lag = self._gauge("event_time_lag_seconds", "How far event time, as its watermark, is behind the clock.")
        # Of the moment that they are asked for, also when the job says nothing any more.
        self._age.set_function(lambda: self._since(self._last_checkpoint_s))
        self._lag.set_function(lambda: self._since(self._event_time_s))

        self.port: int | None = None
        self._server: Any = None
        if port is not None:
            self._serve(port, address)

    def _counter(self, name: str, text: str, *labels: str) -> Any:
        return self._made(self._client.Counter, name, text, labels)

    def _gauge(self, name: str, text: str, *labels: str) -> Any:
        return self._made(self._client.Gauge, name, text, labels)

    def _histogram(self, name: str, text: str) -> Any:
        return self._made(self._client.Histogram, name, text, (), buckets=_SECONDS)

    def _made(self, kind: Any, name: str, text: str, labels: tuple[str, ...], **settings: Any) -> Any:
        """With the label of the job filled in where there is no other one."""
        metric = kind(name, text, ("job", *labels), namespace="onceflow", registry=self.registry, **settings)
        return metric if labels else metric.labels(job=self._job)

    def _since(self, moment_s: float | None) -> float:
        return float("nan") if moment_s is None else max(self._now() - moment_s, 0.0)

    def _serve(self, port: int, address: str) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= _HIGHEST_PORT:
            raise ConfigurationError(f"port is {port!r}; give a number from 0 to {_HIGHEST_PORT}", setting="port")
        try:
            self._server, _ = self._client.start_http_server(port, addr=address, registry=self.registry)
        except OSError as error:
            raise ConfigurationError(
                f"metrics cannot be served on port {port} of {address}: {error}; give another port, or 0 for any",
                setting="port",
            ) from error
        self.port = self._server.server_port

    # -- what a job tells ----------------------------------------------------------------------

    def on_event(self, event: JobEvent) -> None:
        """Takes in what the job tells: for ``run(..., on_event=...)``."""
        match event:
            case Recovered():
                self._recovered(event)
            case Progress():
                self._count(event)
                for name in ("rejected", "skipped", "raised"):
                    self._add(self._records[name], name, "", getattr(event, name))
                for step_id, nbytes in event.held_bytes.items():
                    self._held.labels(job=self._job, step=step_id).set(nbytes)
                self._busy.set(event.busy)
                self._backpressured.set(event.backpressured)
                self._event_time_s = event.event_time_s
            case CheckpointCompleted():
                self._count(event)
                stats = event.stats
                self._completed.inc()
                self._bytes.inc(stats.bytes_written)
                self._durations["durable_s"].observe(stats.durable_s)
                self._durations["sync_s"].observe(stats.freeze_s)
                self._durations["async_s"].observe(stats.encode_s + stats.commit_s)
                self._last_checkpoint_s = self._now()
            case CheckpointFailed():
                self._failed.inc()
            case Restarting():
                self._restarts.inc()
            case Stopping():
                pass

    def _recovered(self, event: Recovered) -> None:
        counts = {"records_in": event.records_in, "records_out": event.records_out, **event.counts}
        if self._has_begun:
            # What the attempt before had done up to there, and not told.
            for name, number in counts.items():
                self._add(self._records[name], name, "", number)
            for step_id, number in event.late.items():
                self._add(self._late.labels(job=self._job, step=step_id), "late", step_id, number)
        else:
            # Earlier runs have counted these.
            self._has_begun = True
            self._told = {(name, ""): number for name, number in counts.items()}
            self._told |= {("late", step_id): number for step_id, number in event.late.items()}

    def _count(self, event: Progress | CheckpointCompleted) -> None:
        self._add(self._records["records_in"], "records_in", "", event.records_in)
        self._add(self._records["records_out"], "records_out", "", event.records_out)
        for step_id, number in event.late.items():
            self._add(self._late.labels(job=self._job, step=step_id), "late", step_id, number)

    def _add(self, counter: Any, name: str, step_id: str, number: int) -> None:
        """What has come since it was told last."""
        before, self._told[name, step_id] = self._told.get((name, step_id), 0), number
        counter.inc(max(number - before, 0))

    # -- the end -------------------------------------------------------------------------------

    def close(self) -> None:
        """Serves no more."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
