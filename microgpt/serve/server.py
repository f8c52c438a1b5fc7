"""The HTTP server: binds the port, serves until a signal, and lets active requests finish."""

import asyncio
import gc
import logging
import signal
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from microgpt.config.task_keys import ServeConfig
from microgpt.errors import UserError
from microgpt.inference.loading import TrainedModel
from microgpt.serve.app import build_app
from microgpt.serve.errors import to_json
from microgpt.serve.service import Service

SHUTDOWN_GRACE = 5.0  # seconds after serve.drain to answer the remaining requests with an error
KEEP_ALIVE = 20  # seconds that a connection may be idle between requests
BACKLOG = 1024  # connections that may wait to be accepted
HEAD_SECONDS = 15.0  # time limit for a request's head; for the first request, counted from the start of the connection
UNREAD_SECONDS = 15.0  # time limit for a client to read what was written
MAX_EXCESS = 65536  # maximum bytes of a request besides its body: head, chunk framing, trailers


class DrainingServer(uvicorn.Server):
    """After a signal, it accepts no requests. Active requests have `seconds` to finish, then end with an error."""

    def __init__(self, config: uvicorn.Config, service: Service, seconds: float):
        super().__init__(config)
        self.service, self.seconds = service, seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(self.seconds, self.service.queue.close)
        await super().shutdown(sockets)


class GatheredWrites:
    """A transport that joins all writes of one iteration of the event loop, such as head and body, in one call."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop):
        self.transport, self.loop = transport, loop
        self.pieces: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: bytes) -> None:
        if not self.pieces:
            self.loop.call_soon(self.flush)
        self.pieces.append(data)

    def flush(self) -> None:
        pieces, self.pieces = self.pieces, []
        if pieces and not self.transport.is_closing():
            self.transport.write(b"".join(pieces))

    def close(self) -> None:
        self.flush()
        self.transport.close()


class LimitedProtocol(HttpToolsProtocol):
    """Closes connections of clients that send a head too slowly, send too much, or do not read in time.

    uvicorn would keep them open. A request that is not valid HTTP gets a response in JSON.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.transport: Any = GatheredWrites(transport, self.loop)
        transport.set_write_buffer_limits(high=0)  # so that writing pauses whenever data is unread
        self.excess = 0  # bytes of the current request besides its body
        self.head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)
        self.unread_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self.excess += len(data)
        super().data_received(data)
        if self.excess > MAX_EXCESS:
            self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        self.head_timer.cancel()
        self.head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.head_timer.cancel()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.excess -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.excess = 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        # `close` would wait until all data is read.
        self.unread_timer = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.stop_unread_timer()

    def stop_unread_timer(self) -> None:
        if self.unread_timer is not None:
            self.unread_timer.cancel()
            self.unread_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.head_timer.cancel()
        self.stop_unread_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = to_json({"error": msg.rstrip(".")}).encode()
            head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()


def run(trained: TrainedModel, config: ServeConfig, api_key: str | None) -> None:
    """Serve until a signal. Raises UserError if the address is not available."""
    service = Service(trained, config, api_key)
    listener = listen(config)
    host, port = listener.getsockname()[:2]
    info = trained.engine.info
    print(f"backend={info.backend} device={info.device} using_gpu={str(info.using_gpu).lower()} dtype={info.dtype}")
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"serving {service.model.id} on {url} (page: {url}/  documentation: {url}/docs  OpenAI's base_url: {url}/v1)")
    print("API key required" if api_key else "no API key required", "- press Ctrl-C to stop", flush=True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    uvicorn_config = uvicorn.Config(
        build_app(service), http=LimitedProtocol, ws="none", loop="uvloop", lifespan="on", access_log=False,
        log_config=None, server_header=False, proxy_headers=False, timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=round(config.drain + SHUTDOWN_GRACE),
    )  # fmt: skip
    server = DrainingServer(uvicorn_config, service, config.drain)
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # after shutdown, uvicorn raises the signal again, and this handler ignores it
        signal.signal(number, server.handle_exit)
    gc.collect()
    gc.freeze()  # these objects are permanent; each scan of them would block the event loop for 0.1 s
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
