"""The web application: routes, the page, health, metrics and documentation."""

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
from starlette.types import ASGIApp

from microgpt.serve import microgpt_api, microgpt_schemas, openai_api
from microgpt.serve.errors import AsciiJSON, register_errors
from microgpt.serve.metrics import MetricsMiddleware
from microgpt.serve.middleware import DirectRoutes, HeadAsGet, HostCheck
from microgpt.serve.service import Service

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
DESCRIPTION = """A tiny GPT over HTTP. Errors are JSON. If the server has an API key, requests to the model must send
`Authorization: Bearer <key>`."""


def build_app(service: Service) -> ASGIApp:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.queue.start()
        yield
        service.queue.close()

    api = FastAPIOffline(
        title="microgpt", version="1", description=DESCRIPTION, redoc_url=None, lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name, separate_input_output_schemas=False,
    )  # fmt: skip
    api.state.service, api.state.limits = service, service.limits
    api.include_router(microgpt_api.router)
    api.include_router(openai_api.router)
    api.add_api_route("/health", health, response_model=microgpt_schemas.Health, tags=["operation"])
    api.add_api_route("/metrics", metrics, response_class=Response, tags=["operation"], responses=TEXT_RESPONSE)
    api.router.routes.append(Route("/names.txt", static(NAMES)))  # for the page to train on
    for file in sorted(STATIC.iterdir()):
        if file.is_file():
            api.router.routes.append(Route("/" if file.name == "index.html" else f"/{file.name}", static(file)))
    register_errors(api)
    service.metrics.prepare(
        [*api.openapi()["paths"], *(route.path for route in api.routes if isinstance(route, Route))],
        waiting=lambda: len(service.queue.waiting),
        active=lambda: len(service.queue.active),
    )
    app: ASGIApp = HeadAsGet(DirectRoutes(api, [microgpt_api.router, openai_api.router]))
    if service.limits.api_key is None:
        app = HostCheck(app, service.config.host, service.config.allowed_hosts)
    if service.config.cors_origins:
        app = CORSMiddleware(
            app, allow_origins=service.config.cors_origins, allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )  # fmt: skip
    return MetricsMiddleware(app, service.metrics)


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
