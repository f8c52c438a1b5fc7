"""The server's life: take the port, say where it is, answer until a signal, let requests under way finish."""

import asyncio
import gc
import logging
import signal
import socket

import uvicorn

from microgpt.config.schema import ServeConfig
from microgpt.errors import UserError
from microgpt.inference.loading import Trained
from microgpt.serve.app import build_app
from microgpt.serve.protocol import PatientProtocol
from microgpt.serve.service import Service

LAST_WORDS = 5.0  # seconds to tell requests that outlast serve.drain that the server is shutting down
KEEP_ALIVE = 20  # seconds that a connection may be idle between requests
BACKLOG = 1024  # connections that wait to be accepted


class Draining(uvicorn.Server):
    """After a signal nothing new is taken; what is under way has so many seconds, and then hears that they are over."""

    def __init__(self, config: uvicorn.Config, service: Service, seconds: float):
        super().__init__(config)
        self.service, self.seconds = service, seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(self.seconds, self.service.batcher.close)
        await super().shutdown(sockets)


def run(trained: Trained, config: ServeConfig, api_key: str | None) -> None:
    """Serve until a signal. Raises UserError for an address that cannot be had."""
    service = Service(trained, config, api_key)
    listener = listen(config)
    host, port = listener.getsockname()[:2]
    info = trained.engine.info
    print(f"backend={info.backend} device={info.device} using_gpu={str(info.using_gpu).lower()} dtype={info.dtype}")
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"serving {service.model.id} on {url} (page: {url}/  documentation: {url}/docs  OpenAI's base_url: {url}/v1)")
    print("a key is needed" if api_key else "no key is needed", "- Ctrl-C stops", flush=True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    uvicorn_config = uvicorn.Config(
        build_app(service), http=PatientProtocol, ws="none", loop="asyncio", lifespan="on", access_log=False,
        log_config=None, server_header=False, timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=round(config.drain + LAST_WORDS),
    )  # fmt: skip
    server = Draining(uvicorn_config, service, config.drain)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them once more when it has ended: for this handler
        signal.signal(number, server.handle_exit)
    gc.collect()
    gc.freeze()  # what is there now stays: looking through it again and again would stop everything for 0.1 s each time
    with listener:
        server.run(sockets=[listener])
    print("stopped", flush=True)


def listen(config: ServeConfig) -> socket.socket:
    where = f"serve.host={config.host} serve.port={config.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"{where} is not an address of this machine: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UserError(f"{where} cannot be used: {error.strerror}") from None
    return listener
