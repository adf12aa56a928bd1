"""JSON over HTTP for many waiting coroutines: bounded, timed, retried, counted.

In: an address, a key, limits, and JSON bodies. Out: the JSON object that the server answered, or
``EndpointError``. Standard library only: a request blocks a thread, never the event loop; what goes
over time is cut off at the socket. Uses no proxy, follows no redirect, and keeps the key out of
every message. Knows nothing of chats.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from pyvision_rl.config.endpoints import EndpointConfig
from pyvision_rl.errors import EndpointError

MAX_BYTES = 64_000_000
"""Of one answer."""
_SHOWN = 200
_TRANSIENT = frozenset({408, 425, 429})
"""Besides all of 5xx: worth another try."""


class _TryError(Exception):
    """One try failed."""

    def __init__(
        self, why: str, *, again: bool = True, wait_s: float | None = None, status: int = 0
    ) -> None:
        super().__init__(why)
        self.again = again
        self.wait_s = wait_s
        """How long the server asks to wait."""
        self.status = status


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    retry_after: str


class JsonClient:
    """Asks paths below one address for JSON. Close it in the event loop that used it."""

    def __init__(self, config: EndpointConfig, key: str = "") -> None:
        """Take the address and limits of ``config``, and the key to send as bearer token."""
        parts = urlsplit(config.url)
        self._config = config
        self.address = config.url.partition("?")[0]
        """For messages."""
        self._key = key
        self._https = parts.scheme == "https"
        # With a port always: the library would take the end of a bare IPv6 address for one.
        self._place = (parts.hostname or "", parts.port or (443 if self._https else 80))
        self._base = parts.path.rstrip("/")
        self._query = f"?{parts.query}" if parts.query else ""
        self._tls: ssl.SSLContext | None = None
        self._slots: asyncio.Semaphore | None = None
        # Twice as many: a thread whose request was cut off may need a moment to notice.
        self._threads = ThreadPoolExecutor(2 * config.max_concurrent, "http")
        # Not the module's own generator: a run's random numbers must not depend on a server.
        self._jitter = random.Random()
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        """requests, retries, failures; of the process so far."""

    async def post(
        self, path: str, body: Mapping[str, Any], *, any_answer: bool = False
    ) -> dict[str, Any]:
        """Return the JSON object that the server answers ``body`` with.

        Args:
            path: Below the address; may end in a query where the address has none.
            body: What is sent.
            any_answer: Take an answer that is no JSON object, too, as an empty one.

        Raises:
            EndpointError: Refused, or no usable answer after all retries.
        """
        return await self._ask(path, json.dumps(body).encode(), any_answer)

    async def get(self, path: str) -> dict[str, Any]:
        """Return the JSON object at ``path``.

        Raises:
            EndpointError: Refused, or no usable answer after all retries.
        """
        return await self._ask(path, None, False)

    async def _ask(self, path: str, data: bytes | None, any_answer: bool) -> dict[str, Any]:
        for retry in range(self._config.max_retries + 1):
            try:
                return await self._try(path, data, any_answer)
            except _TryError as error:
                wait_s = self._wait_s(retry, error)
                if not error.again or wait_s is None or retry == self._config.max_retries:
                    self.counts["failures"] += 1
                    tries = f" ({retry + 1} tries)" if retry else ""
                    failure = EndpointError(f"{self.address}: {error}{tries}")
                    failure.status = error.status
                    raise failure from None
            self.counts["retries"] += 1
            await asyncio.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    async def close(self) -> None:
        """Close idle connections and end the threads. Idempotent."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _wait_s(self, retry: int, error: _TryError) -> float | None:
        """How long to wait before the next try; None when the server wants too much patience."""
        most = self._config.max_wait_s
        if error.wait_s is not None:
            return error.wait_s if error.wait_s <= most else None
        # Jitter: clients that were turned away together must not come back together.
        return min(most, self._config.retry_wait_s * 2.0 ** min(retry, 60)) * self._jitter.uniform(
            0.5, 1
        )

    async def _try(self, path: str, data: bytes | None, any_answer: bool) -> dict[str, Any]:
        if self._slots is None:
            self._slots = asyncio.Semaphore(self._config.max_concurrent)
        async with self._slots:
            self.counts["requests"] += 1
            answer = await self._exchange(f"{self._base}{path}{self._query}", data)
        return self._read(answer, any_answer)

    async def _exchange(self, target: str, data: bytes | None) -> _Answer:
        """One request and its answer, in a thread that is cut off when it takes too long."""
        exchange = _Exchange(self, target, data)
        future = asyncio.get_running_loop().run_in_executor(self._threads, exchange.run)
        try:
            async with asyncio.timeout(self._config.timeout_s):
                return await future
        except TimeoutError:
            raise _TryError(f"no whole answer within {self._config.timeout_s:g} s") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _TryError(f"{type(error).__name__}: {error}"[:_SHOWN]) from error
        finally:
            exchange.cut_off()

    def _read(self, answer: _Answer, any_answer: bool) -> dict[str, Any]:
        """The object in an answer."""
        if answer.status != 200:
            # A server may repeat what it was sent.
            text = answer.body.decode("utf-8", "replace")
            text = " ".join((text.replace(self._key, "***") if self._key else text).split())
            again = answer.status in _TRANSIENT or answer.status >= 500
            wait_s = _seconds(answer.retry_after) if again else None
            asks = "" if wait_s is None else f", asks to wait {wait_s:g} s"
            why = f"status {answer.status}{asks}: {text[:_SHOWN]}"
            raise _TryError(why, again=again, wait_s=wait_s, status=answer.status)
        try:
            value = json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            if any_answer:
                return {}
            raise _TryError(f"an answer that is not JSON ({error})") from error
        if not isinstance(value, dict):
            if any_answer:
                return {}
            raise _TryError(f"a {type(value).__name__} instead of an object")
        if value.get("error") and "choices" not in value:
            # So gateways pass on what went wrong behind them.
            raise _TryError(f"an error with status 200: {value['error']}"[:_SHOWN])
        return value

    def connect(self) -> tuple[http.client.HTTPConnection, bool]:
        """Return a connection, and whether it was used before."""
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
        host, port = self._place
        timeout_s = self._config.timeout_s
        if not self._https:
            return http.client.HTTPConnection(host, port, timeout=timeout_s), False
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._tls), False

    def give_back(self, connection: http.client.HTTPConnection) -> None:
        """Keep a connection for the next request."""
        with self._lock:
            if len(self._idle) < self._config.max_concurrent:
                self._idle.append(connection)
                return
        connection.close()

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        bearer = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return {"Content-Type": "application/json", "Accept": "application/json", **bearer}


class _Exchange:
    """One request in its thread; ``cut_off`` ends it from another."""

    def __init__(self, client: JsonClient, target: str, data: bytes | None) -> None:
        self._client = client
        self._target = target
        self._data = data
        self._connection: http.client.HTTPConnection | None = None
        self._over = False

    def run(self) -> _Answer:
        """Return the answer.

        Raises:
            OSError, HTTPException, ValueError: There is none, or not a whole one.
        """
        while not self._over:
            connection, used = self._client.connect()
            self._connection = connection
            try:
                answer, reusable = self._ask(connection)
            except BaseException as error:
                connection.close()
                # The server may have closed it while it was idle: that is no failed try.
                stale = (ConnectionError, http.client.RemoteDisconnected)
                if used and isinstance(error, stale) and not self._over:
                    continue
                raise
            self._connection = None
            if reusable and not self._over:
                self._client.give_back(connection)
            else:
                connection.close()
            return answer
        raise TimeoutError("cut off")

    def cut_off(self) -> None:
        """End the exchange, if it is under way."""
        self._over = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _ask(self, connection: http.client.HTTPConnection) -> tuple[_Answer, bool]:
        method = "GET" if self._data is None else "POST"
        connection.request(method, self._target, body=self._data, headers=self._client.headers)
        with connection.getresponse() as response:
            body = response.read(MAX_BYTES + 1)
            if len(body) > MAX_BYTES:
                raise ValueError(f"an answer of more than {MAX_BYTES} bytes")
            # With a limit given, read returns what came before the connection broke.
            if response.length:
                raise http.client.IncompleteRead(body, response.length)
            answer = _Answer(response.status, body, response.getheader("Retry-After", ""))
            return answer, not response.will_close


def _seconds(text: str) -> float | None:
    """What Retry-After says, in seconds from now; None if it says nothing."""
    with suppress(ValueError):
        return max(0.0, float(text))
    with suppress(ValueError, OverflowError, OSError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None
