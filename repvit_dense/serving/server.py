"""Listen on a port and run the application until a signal ends it."""

import contextlib
import ipaddress
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from repvit_dense.errors import InputError
from repvit_dense.serving.app import Limits, build_app
from repvit_dense.serving.batching import Worker
from repvit_dense.serving.guard import Guard
from repvit_dense.serving.metrics import Metrics

if TYPE_CHECKING:
    from repvit_dense.artifact.predictor import ImageModel

LOOPBACK = ('localhost', '127.0.0.1', '::1')
BACKLOG = 128  # connections that wait to be accepted
SPARE = 64  # connections beside those of the queue: pages, /health, /metrics, clients that are told to wait
HEAD_SECONDS = 10.0  # for the head of a request


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 lets the system choose.

    Raises:
        InputError: this machine has no such address, or the port is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f'--host {host}: no such host ({getattr(error, "strerror", error)})') from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port whose last server has just ended
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        hint = '--port 0 chooses a free one' if error.errno != getattr(socket, 'EADDRNOTAVAIL', 99) else ''
        raise InputError(
            f'--host {host} --port {port}: cannot be listened on ({error.strerror}){"; " * bool(hint)}{hint}'
        ) from error
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine can connect."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def url_of(listener: socket.socket) -> str:
    """Return the address of the page for a browser on this machine."""
    host, port = listener.getsockname()[:2]
    host = 'localhost' if ipaddress.ip_address(host).is_unspecified else host
    return f'http://[{host}]:{port}/' if ':' in host else f'http://{host}:{port}/'


class Protocol(H11Protocol):
    """HTTP with a time limit for the head of a request; uvicorn limits the time between requests only."""

    _timer: Any = None

    def connection_made(self, transport: Any) -> None:
        """Start to wait for a head."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """Stop to wait if the head is complete; wait for the next one if it has begun."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._cancel()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._cancel()
        super().connection_lost(exc)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def build_server(model: 'ImageModel', listener: socket.socket, limits: Limits, score: float) -> uvicorn.Server:
    """Return a server whose `run(sockets=[listener])` serves a model."""
    metrics = Metrics()
    app = build_app(model, Worker(model, limits.pixels, metrics), metrics, limits, score)
    hosts = {*LOOPBACK, listener.getsockname()[0]} if is_loopback(listener) else None
    guarded = Guard(app, metrics, hosts, 3 * limits.seconds)
    config = uvicorn.Config(
        guarded,
        http=Protocol,
        ws='none',
        loop='asyncio',
        lifespan='off',
        log_config=None,
        log_level='critical',
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.queue + SPARE,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=round(limits.seconds),
    )
    return uvicorn.Server(config)


@contextlib.contextmanager
def exit_by_signal() -> Iterator[None]:
    """End the process at SIGINT and SIGTERM as predict does; uvicorn raises a signal again after its shutdown.

    A background job of a shell, which ignores SIGINT, ends too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: lambda number, _: sys.exit(128 + number),
    }
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
