"""Prometheus metrics at /metrics. All series exist from the start."""

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATUSES = (200, 400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 499, 500, 503)
UNMATCHED_ROUTE = "elsewhere"  # route label of requests that match no route
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "microgpt_requests",
            "Requests answered; 499: the client closed the connection",
            ["route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "microgpt_request_duration_seconds", "Time from a request's head to the end of its response", ["route"],
            buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip
        tokens = Counter(
            "microgpt_tokens", "Tokens that the model has read and generated", ["kind"], registry=self.registry
        )
        self.series: dict[tuple[str, int], tuple[Counter, Histogram]] = {}  # keyed by route and status
        self.read, self.drawn = tokens.labels("read"), tokens.labels("drawn")

    def prepare(self, routes: Iterable[str], waiting: Callable[[], int], active: Callable[[], int]) -> None:
        for route in (*routes, UNMATCHED_ROUTE):
            self.seconds.labels(route)
            for status in STATUSES:
                self.requests.labels(route, status)
        for name, what, function in (
            ("microgpt_requests_waiting", "Requests in the queue", waiting),
            ("microgpt_requests_active", "Requests being generated", active),
        ):
            Gauge(name, what, registry=self.registry).set_function(function)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        key = (route, status)
        if key not in self.series:
            self.series[key] = self.requests.labels(route, status), self.seconds.labels(route)
        requests, durations = self.series[key]
        requests.inc()
        durations.observe(seconds)

    def count_tokens(self, read: int, drawn: int) -> None:
        self.read.inc(read)
        self.drawn.inc(drawn)

    def page(self) -> bytes:
        return generate_latest(self.registry)


class MetricsMiddleware:
    """ASGI middleware that counts and times requests."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 499

        async def record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, record_status)
        finally:
            route = getattr(scope.get("route"), "path", None) or UNMATCHED_ROUTE
            self.metrics.count_request(route, status if status in STATUSES else 500, time.perf_counter() - start)
