"""The web application: routes, the page, health, metrics, documentation."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from microgpt.serve import microgpt_api, microgpt_schemas, openai_api
from microgpt.serve.errors import AsciiJSON, register_errors
from microgpt.serve.metrics import MetricsMiddleware
from microgpt.serve.middleware import HeadAsGet, HostCheck
from microgpt.serve.service import Service
from microgpt.serve.streaming import ClientDisconnectedError

STATIC = Path(__file__).parent / "static"
NAMES = Path(str(files("microgpt.data") / "names.txt"))
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
DESCRIPTION = """A tiny GPT over HTTP. Errors are JSON. If a key is set, requests that compute must send
`Authorization: Bearer <key>`."""


def build_app(service: Service) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.queue.start()
        yield
        service.queue.close()

    app = FastAPIOffline(
        title="microgpt", version="1", description=DESCRIPTION, redoc_url=None, lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name, separate_input_output_schemas=False,
    )  # fmt: skip
    app.state.service, app.state.limits = service, service.limits
    app.include_router(microgpt_api.router)
    app.include_router(openai_api.router)
    app.add_api_route("/health", health, response_model=microgpt_schemas.Health, tags=["operation"])
    app.add_api_route("/metrics", metrics, response_class=Response, tags=["operation"], responses=TEXT_RESPONSE)
    app.router.routes.append(Route("/names.txt", static(NAMES)))  # for the page to train on
    for file in sorted(STATIC.iterdir()):
        if file.is_file():
            app.router.routes.append(Route("/" if file.name == "index.html" else f"/{file.name}", static(file)))
    register_errors(app)
    app.add_exception_handler(ClientDisconnectedError, client_disconnected)
    app.add_middleware(HeadAsGet)
    if service.limits.api_key is None:
        app.add_middleware(HostCheck, host=service.config.host, allowed=service.config.allowed_hosts)
    if service.config.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=service.config.cors_origins, allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )  # fmt: skip
    app.add_middleware(MetricsMiddleware, metrics=service.metrics)
    service.metrics.prepare(
        [*app.openapi()["paths"], *(route.path for route in app.routes if isinstance(route, Route))],
        waiting=lambda: len(service.queue.waiting),
        active=lambda: len(service.queue.active),
    )
    return app


TEXT_RESPONSE: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


async def health() -> Response:
    """Report that the server is running."""
    return AsciiJSON({"status": "ok"})


async def metrics(request: Request) -> Response:
    """Return the metrics for Prometheus."""
    return Response(request.app.state.service.metrics.page(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def static(file: Path) -> Callable[[Request], Awaitable[Response]]:
    async def send(request: Request) -> Response:
        return FileResponse(file, headers=PAGE_HEADERS)

    return send


async def client_disconnected(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
