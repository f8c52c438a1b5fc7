"""HTTP/1.1 as uvicorn speaks it, for clients that mean no good.

A request's head must come in time, and what is no HTTP is answered in JSON.
"""

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0  # from the beginning of a connection to the end of its first request's head


class PatientProtocol(H11Protocol):
    """Connections that send nothing, or half a head, are closed after a while: uvicorn itself would keep them."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.head_timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.give_up)

    def give_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.head_timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        body = json.dumps({"error": msg.rstrip(".")}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for part in (h11.Response(status_code=400, headers=headers, reason=b"Bad Request"), h11.Data(data=body)):
            self.transport.write(self.conn.send(event=part) or b"")
        self.transport.write(self.conn.send(event=h11.EndOfMessage()) or b"")
        self.transport.close()
