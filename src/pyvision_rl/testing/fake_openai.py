"""An OpenAI-compatible chat server in this process that answers from a script and fails on demand.

In: a function from a request's body to the text to answer, and faults, one per request in order.
Out: a server on a local port, and every request it got. Standard library only; for tests and for
trying a config without a model.

    with FakeOpenAI(lambda body: "1", faults=[Fault(status=500), Fault(drop=True)]) as server:
        ...  # url = server.url
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Answer = Callable[[dict[str, Any]], "str | dict[str, Any]"]
"""From a request's body to the text of the completion, or to the fields of its choice."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request."""

    status: int = 200
    """Another one is answered with an error body."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers, e.g. ``Retry-After``."""
    delay_s: float = 0.0
    """Before anything is sent."""
    drop: bool = False
    """The connection is closed without an answer."""
    truncate: bool = False
    """Half of the body is sent, then the connection is closed."""
    body: bytes | None = None
    """Sent instead of a completion."""
    close_after: bool = False
    """The connection is closed after a whole answer that does not say so."""
    drip_s: float = 0.0
    """The body is sent byte by byte, with this pause after each."""
    echo: bool = False
    """The error body repeats the request's Authorization, as careless servers do."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that the server got."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


class FakeOpenAI:
    """The server; a context manager that starts and ends it."""

    def __init__(
        self,
        answer: Answer = lambda _: "1",
        *,
        faults: Iterable[Fault | None] = (),
        always: Fault | None = None,
    ) -> None:
        """Take the answers and the faults.

        Args:
            answer: Called once per request that gets an answer.
            faults: Of the first requests, in order of arrival; None lets one pass.
            always: Of every request after those.
        """
        self._answer = answer
        self._faults = list(faults)
        self._always = always
        self._lock = threading.Lock()
        self._live = 0
        self.num_connections = 0
        self.requests: list[Seen] = []
        self.most_live = 0
        """Requests that were under way at the same time, at most."""
        server = self

        class Handler(_Handler):
            fake = server

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        """The base address, as a config names it."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        """Start serving."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def arrive(self, seen: Seen) -> Fault:
        """Note a request and return what goes wrong with it."""
        with self._lock:
            self.requests.append(seen)
            self._live += 1
            self.most_live = max(self.most_live, self._live)
            fault = self._faults.pop(0) if self._faults else self._always
            return fault or Fault()

    def leave(self) -> None:
        """Note that a request is done with."""
        with self._lock:
            self._live -= 1

    def reply(self, seen: Seen) -> tuple[int, bytes]:
        """Return status and body of the answer to a request that nothing goes wrong with."""
        return 200, self.completion(seen.body)

    def completion(self, body: dict[str, Any]) -> bytes:
        """Return the completion of a request as JSON."""
        made = self._answer(body)
        if isinstance(made, str):
            made = {"message": {"content": made}, "finish_reason": "stop"}
        choice = {"index": 0, **made}
        usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
        return json.dumps(
            {"object": "chat.completion", "choices": [choice], "usage": usage}
        ).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeOpenAI

    def setup(self) -> None:
        """Count the connection."""
        super().setup()
        self.fake.num_connections += 1

    def do_POST(self) -> None:
        """Answer one request, or fail as asked."""
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        seen = Seen(self.path, dict(self.headers), json.loads(data or b"{}"))
        fault = self.fake.arrive(seen)
        try:
            # The client may have given up by now.
            with suppress(ConnectionError):
                self._respond(fault, seen)
        finally:
            self.fake.leave()

    def do_GET(self) -> None:
        """Answer like a request without a body."""
        self.do_POST()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _respond(self, fault: Fault, seen: Seen) -> None:
        if fault.delay_s:
            time.sleep(fault.delay_s)
        if fault.drop:
            self.close_connection = True
            return
        status, sent = fault.status, fault.body
        if sent is None and status == 200:
            status, sent = self.fake.reply(seen)
        if sent is None:
            message = (
                str(self.headers["Authorization"])
                if fault.echo
                else f"status {fault.status} on demand"
            )
            sent = json.dumps({"error": {"message": message}}).encode()
        self.send_response(status)
        for name, value in fault.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.close_connection = fault.close_after
        if fault.truncate:
            sent, self.close_connection = sent[: len(sent) // 2], True
        self._send(sent, fault.drip_s)

    def _send(self, data: bytes, drip_s: float) -> None:
        if not drip_s:
            self.wfile.write(data)
            return
        for byte in data:
            self.wfile.write(bytes([byte]))
            time.sleep(drip_s)
