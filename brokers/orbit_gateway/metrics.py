"""`/metrics` for Prometheus, and `/healthz` and `/readyz` for whoever starts and watches the gateway.

Requests are counted as they end; what the broker knows is asked for when somebody scrapes. No label has values that a caller
can make up: plugins and operations come from catalogues, and beyond a number of them they are `other`.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orbit_gateway.answers import CODE, answer, answering
from orbit_gateway.rest import CALL
from orbit_zmq.errors import ERRORS, OrbitError
from orbit_zmq.models import BrokerStatus

if TYPE_CHECKING:
    from orbit_gateway.app import Gateway

OPERATIONS = 500  # pairs of plugin and operation that are told apart
OTHER = "other"
OWN = frozenset((
    "/auth", "/endpoint/list", "/endpoints", "/events", "/broker/terminate", "/openapi.json", "/docs", "/",
    "/healthz", "/readyz", "/metrics",
))  # fmt: skip
UNWANTED = "-"  # of requests that are no calls
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds
STREAM = ("events", "missed", "cut_off")  # what is counted of the stream of events
STATES = 32  # of tasks, that are told apart
STATUS_S = 2.0  # for the broker to answer a scrape


disable_created_metrics()  # type: ignore[no-untyped-call]  # three series in place of two for each label


class Figures:
    """What is counted here, and the registry that everything is scraped from."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        names = ("plugin", "operation")
        registry = self.registry
        self.requests = Counter("orbit_http_requests", "Requests that have ended.", (*names, "status"), registry=registry)
        self.latency = Histogram(
            "orbit_http_request_seconds", "From a request to the head of its answer.", names, buckets=BUCKETS, registry=registry
        )
        self.errors = Counter("orbit_http_errors", "Errors answered, by code.", ("code",), registry=registry)
        self.bytes = Counter("orbit_http_bytes", "Bytes of bodies.", ("direction",), registry=registry)
        self.running = 0
        self._known: set[tuple[str, str]] = set()

    def labels_of(self, scope: Scope) -> tuple[str, str]:
        """The plugin and operation of a request, as far as they are told apart."""
        call = scope.get(CALL)
        if call is None:
            path = scope["path"]
            return UNWANTED, path if path in OWN else OTHER
        pair = (call[1], call[2])
        if pair not in self._known and len(self._known) >= OPERATIONS:
            return OTHER, OTHER
        self._known.add(pair)
        return pair


class Measured:
    """Counts every request, its time and its bytes."""

    def __init__(self, app: ASGIApp, figures: Figures) -> None:
        self._app = app
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        figures, begun_at = self._figures, time.perf_counter()
        status, latency_s = 0, 0.0
        received, sent = figures.bytes.labels("in"), figures.bytes.labels("out")

        async def receive_counted() -> Message:
            message = await receive()
            received.inc(len(message.get("body", b"")))
            return message

        async def send_counted(message: Message) -> None:
            nonlocal status, latency_s
            if message["type"] == "http.response.start":
                status, latency_s = message["status"], time.perf_counter() - begun_at
            else:
                sent.inc(len(message.get("body", b"")))
            await send(message)

        figures.running += 1
        try:
            await self._app(scope, receive_counted, send_counted)
        finally:
            figures.running -= 1
            labels = figures.labels_of(scope)
            figures.requests.labels(*labels, status).inc()
            figures.latency.labels(*labels).observe(latency_s or time.perf_counter() - begun_at)
            if (code := scope.get(CODE)) is not None:
                figures.errors.labels(code if code in ERRORS else OTHER).inc()


def middleware(gateway: Gateway) -> list[Middleware]:
    """The one that counts."""
    return [Middleware(Measured, figures=_figures_of(gateway))]


def routes(gateway: Gateway) -> list[BaseRoute]:
    """Metrics for who has a token, health for everybody."""
    figures = _figures_of(gateway)
    scraped = Scraped(figures)
    figures.registry.register(scraped)

    async def metrics(request: Request) -> Response:
        await gateway.identify(request)
        scraped.hub = gateway.hub.figures()
        try:
            status = await gateway.backend.own.broker_status(deadline_s=STATUS_S)
            scraped.broker = BrokerStatus.model_validate(status)
        except OrbitError:
            scraped.broker = None
        return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)

    async def healthz(request: Request) -> Response:
        return answer({"status": "ok"}, request)

    async def readyz(request: Request) -> Response:
        is_ready = gateway.backend.link.is_up
        return answer({"status": "ready" if is_ready else "the broker is away"}, request, 200 if is_ready else 503)

    handlers = {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz}
    return [Route(path, answering(handler), methods=["GET"]) for path, handler in handlers.items()]


def _figures_of(gateway: Gateway) -> Figures:
    """The ones of this gateway; its routes and its wrapper share them."""
    if gateway.figures is None:
        gateway.figures = Figures()
    return gateway.figures


class Scraped(Collector):
    """What is known at the moment of a scrape: of the broker, and of the readers of events."""

    def __init__(self, figures: Figures) -> None:
        self.broker: BrokerStatus | None = None  # None: it does not answer
        self.hub: Mapping[str, int] = {}
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """One scrape."""
        yield _gauge("orbit_broker_up", "Whether the broker answers.", float(self.broker is not None))
        yield _gauge("orbit_http_requests_running", "Requests and streams that have not ended.", self._figures.running)
        yield _gauge("orbit_sse_readers", "Readers of the stream of events.", self.hub.get("readers", 0))
        for name in STREAM:
            yield _counter(f"orbit_sse_{name}", f"Of the stream of events: {name.replace('_', ' ')}.", self.hub.get(name, 0))
        if self.broker is not None:
            yield from _of_broker(self.broker)


def _of_broker(status: BrokerStatus) -> Iterable[Metric]:
    participants = Tally((one.role, one.state) for one in status.participants)
    participants["endpoint", "lost"] = len(status.lost_endpoints)
    yield _gauges("orbit_participants", "Connected parties; lost: of the last 15 minutes.", ("role", "state"), participants)
    loads = [one.load for one in status.participants if one.load is not None]
    calls = {("running",): sum(load.running for load in loads), ("waiting",): sum(load.waiting for load in loads)}
    calls |= {("in_flight",): status.calls.in_flight, ("held",): status.calls.held}
    yield _gauges("orbit_calls", "Calls at the endpoints, and on their way.", ("state",), calls)
    yield _gauges("orbit_tasks", "Tasks of all endpoints.", ("state",), _tasks(status))
    yield _gauge("orbit_sessions", "Sessions of all endpoints.", status.sessions)
    yield _gauge("orbit_queue_messages", "Messages that wait in the broker.", status.queues.messages)
    yield _gauge("orbit_queue_bytes", "Their bytes.", status.queues.bytes)
    drops = {(cause,): count for cause, count in status.drops.items()}
    yield _counters("orbit_drops", "Messages that the broker has thrown away.", ("cause",), drops)
    for name, count in status.totals.model_dump().items():
        yield _counter(f"orbit_broker_{name}", f"Of the broker since its start: {name.replace('_', ' ')}.", count)
    yield _gauge("orbit_events_missed", "Events that present subscribers have missed.", status.events.missed)
    yield _gauge("orbit_events_replayed", "Events that they have asked for again.", status.events.replayed)
    yield _gauge("orbit_broker_memory_bytes", "Resident memory of the broker.", status.memory_bytes)
    yield _gauge("orbit_broker_uptime_seconds", "Since the broker's start.", status.uptime_s)
    yield _gauge("orbit_broker_loop_seconds", "Longest round of its loop lately.", status.loop.longest_round_lately_s)


def _tasks(status: BrokerStatus) -> Mapping[tuple[str, ...], float]:
    states: Tally[str] = Tally()
    for one in status.participants:
        for state, count in (one.load.tasks_by_state if one.load is not None else {}).items():
            states[state if state in states or len(states) < STATES else OTHER] += count
    return {(state,): count for state, count in states.items()}


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_, value=value)


def _counter(name: str, help_: str, value: float) -> Metric:
    return CounterMetricFamily(name, help_, value=value)


def _gauges(name: str, help_: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    return _filled(GaugeMetricFamily(name, help_, labels=labels), values)


def _counters(name: str, help_: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    return _filled(CounterMetricFamily(name, help_, labels=labels), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[Any, float]) -> Metric:
    for key, value in values.items():
        family.add_metric(key, value)
    return family
