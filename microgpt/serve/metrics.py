"""What Prometheus reads at /metrics. Every series is there from the start."""

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATUSES = (200, 400, 401, 404, 405, 408, 413, 415, 422, 429, 499, 500, 503)
ELSEWHERE = "elsewhere"  # the route of a request that found none
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "microgpt_requests", "Requests answered; 499: the client left", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "microgpt_request_duration_seconds", "From a request's head to the end of its answer", ["route"],
            buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip
        tokens = Counter(
            "microgpt_tokens", "Tokens read by the model and drawn from it", ["kind"], registry=self.registry
        )
        self.read, self.drawn = tokens.labels("read"), tokens.labels("drawn")

    def prepare(self, routes: Iterable[str], waiting: Callable[[], int], active: Callable[[], int]) -> None:
        for route in (*routes, ELSEWHERE):
            self.seconds.labels(route)
            for status in STATUSES:
                self.requests.labels(route, status)
        for name, what, function in (
            ("microgpt_requests_waiting", "Requests in the queue", waiting),
            ("microgpt_requests_active", "Requests that are generated for", active),
        ):
            Gauge(name, what, registry=self.registry).set_function(function)

    def count_tokens(self, read: int, drawn: int) -> None:
        self.read.inc(read)
        self.drawn.inc(drawn)

    def page(self) -> bytes:
        return generate_latest(self.registry)


class Measured:
    """Counts and times the requests of an application."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 499

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", None) or ELSEWHERE
            status = status if status in STATUSES else 500
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - begun)
