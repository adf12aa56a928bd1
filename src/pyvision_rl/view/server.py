"""A site served to the browsers of this machine.

In: a ``Site``. Out: an HTTP server on 127.0.0.1. It answers only requests that name this host and
that a page of its own, or a person, makes: other sites' pages can neither read what is served nor
post notes. What can be read is what the site lists.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pyvision_rl.errors import ConfigError
from pyvision_rl.view.notes import append_note, check_note
from pyvision_rl.view.site import Found, Site

HOST = "127.0.0.1"
MAX_BODY = 2**17
"""Bytes of a note as it is sent."""
_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Data files are scripts, which any page may load: these keep other sites' pages out.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_LASTING = "private, max-age=31536000, immutable"
_log = logging.getLogger(__name__)


def hosts_of(port: int) -> frozenset[str]:
    """Return what ``Host`` and ``Origin`` may name; browsers leave out the port 80."""
    names = (HOST, "localhost")
    return frozenset(f"{name}:{port}" for name in names).union(names if port == 80 else ())


def new_token() -> str:
    """Return what a page must send with notes."""
    return secrets.token_urlsafe(24)


class Server(ThreadingHTTPServer):
    """Serves one site; ``serve_forever`` until ``shutdown``."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, site: Site, token: str, port: int = 0) -> None:
        """Take a port.

        Args:
            site: What is served.
            token: What a page must send with notes.
            port: 0 takes a free one.

        Raises:
            ConfigError: The port cannot be had.
        """
        self.site, self.token = site, token
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"--port {port} cannot be had on {HOST}: {error}") from error
        self.hosts = hosts_of(self.server_port)

    def server_bind(self) -> None:
        """Take the port; HTTPServer would look its own name up, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with one request; the others go on."""
        _log.exception("a request failed")

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "pvrl", ""
    timeout = 60

    def do_GET(self) -> None:
        """Answer with what lies at the name."""
        self._answer(self._get)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Take a note."""
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Log quietly: a terminal shows results only."""
        _log.debug(format, *args)

    def _answer(self, work: Any) -> None:
        try:
            work()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        # A run folder may go away or hold anything: the page is told, and the server goes on.
        except Exception as error:  # noqa: BLE001 - one request must not end the others
            _log.warning("%s: %r", self.path, error)
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))

    def _get(self) -> None:
        if self.headers.get("Host", "").lower() not in self.server.hosts:
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "this server is for this machine only")
            return
        if not self._ours():
            self._refuse(HTTPStatus.FORBIDDEN, "another site's page may not read this")
            return
        address = urlsplit(self.path)
        name = unquote(address.path).removeprefix("/")
        # A page is a folder: its relative names need the slash at the end.
        found = self.server.site.get(name, dict(parse_qsl(address.query)))
        if found is None:
            self._refuse(HTTPStatus.NOT_FOUND, "nothing of that name")
        else:
            self._send(HTTPStatus.OK, found)

    def _ours(self) -> bool:
        """Return whether a page of ours, or a person, asks; old browsers do not say."""
        where = self.headers.get("Sec-Fetch-Site", "none")
        # A link from elsewhere opens the page, and cannot read it.
        person = self.headers.get("Sec-Fetch-Dest") == "document"
        return where in ("none", "same-origin") or person

    def _post(self) -> None:
        body = self._body()
        fault = self._fault()
        if fault is not None:
            self._refuse(*fault)
            return
        name = unquote(urlsplit(self.path).path).removeprefix("/")
        unit = name.removeprefix("runs/").removesuffix("notes").removesuffix("/")
        site = self.server.site.run(unit) if name in ("notes", f"runs/{unit}/notes") else None
        if site is None:
            self._refuse(HTTPStatus.NOT_FOUND, "no run of that name takes notes")
            return
        try:
            sent = json.loads(body)
            if not isinstance(sent, dict) or not self._knows(sent.get("token")):
                self._refuse(HTTPStatus.FORBIDDEN, "the token is wrong: load the page again")
                return
            note = check_note(sent)
        except (ValueError, RecursionError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"no note: {error}")
            return
        self._json(HTTPStatus.OK, {"note": append_note(site.path, note)})

    def _body(self) -> bytes:
        """Return what was sent; nothing of what is too long, after which the connection ends."""
        try:
            length = int(self.headers.get("Content-Length", "0"))
        except ValueError:
            length = -1
        if not 0 <= length <= MAX_BODY or self.headers.get("Transfer-Encoding"):
            self.close_connection = True
            return b""
        return self.rfile.read(length)

    def _fault(self) -> tuple[HTTPStatus, str] | None:
        """Return why a post is refused, whatever it holds."""
        if self.headers.get("Host", "").lower() not in self.server.hosts:
            return HTTPStatus.MISDIRECTED_REQUEST, "this server is for this machine only"
        if self.headers.get("Origin", "").removeprefix("http://") not in self.server.hosts:
            return HTTPStatus.FORBIDDEN, "only this server's own page may send notes"
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "notes are sent as application/json"
        return None

    def _knows(self, token: object) -> bool:
        known = self.server.token.encode()
        return isinstance(token, str) and secrets.compare_digest(
            token.encode("utf-8", "replace"), known
        )

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._json(status, {"error": why})

    def _json(self, status: HTTPStatus, value: Mapping[str, Any]) -> None:
        body = json.dumps(value).encode("ascii")
        self._send(status, Found("application/json", body))

    def _send(self, status: HTTPStatus, found: Found) -> None:
        body = found.body.read_bytes() if isinstance(found.body, Path) else found.body
        self.send_response(status)
        self.send_header("Content-Type", found.kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", _LASTING if found.lasting else "no-store")
        for name, value in _SECURITY.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
