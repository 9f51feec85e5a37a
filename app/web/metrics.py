"""What a monitoring system counts of requests: methods, route templates and statuses. No path, no name, no account.

With PROMETHEUS_MULTIPROC_DIR, which `registry serve` sets, the workers' figures are added up, whichever is asked.
"""

import os
import shutil

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.registry import Collector

from app.web.supervised import orphaned

SHARED = "PROMETHEUS_MULTIPROC_DIR"
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Counter("registry_requests", "Requests answered", ["method", "route", "status"])
SECONDS = Histogram("registry_request_seconds", "From the request to its answer", ["method", "route"], buckets=_BOUNDS)
IN_FLIGHT = Gauge("registry_requests_in_flight", "Requests being answered", multiprocess_mode="livesum")
CONNECTIONS = Gauge("registry_connections_in_use", "Database connections in use", multiprocess_mode="livesum")
POOLS = Gauge("registry_connections_allowed", "Database connections of the pools", multiprocess_mode="livesum")


def count(method: str, route: str | None, status: int, seconds: float) -> None:
    """One request. A method or path that the registry does not know is counted under one name, whatever was sent."""
    known, place = method if method in _METHODS else "other", route or "unmatched"
    REQUESTS.labels(known, place, str(status)).inc()
    SECONDS.labels(known, place).observe(seconds)


def exposition(state: Collector) -> bytes:
    """All figures in Prometheus' text format."""
    collected = REGISTRY
    if SHARED in os.environ:
        collected = CollectorRegistry()
        multiprocess.MultiProcessCollector(collected)  # type: ignore[no-untyped-call]
    own = CollectorRegistry()
    own.register(state)
    return generate_latest(collected) + generate_latest(own)


def leave() -> None:
    """Called when this worker stops: its gauges are removed. The folder is deleted by the parent, or here if the parent
    was killed."""
    if SHARED in os.environ:
        multiprocess.mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]
        if orphaned():
            shutil.rmtree(os.environ[SHARED], ignore_errors=True)
