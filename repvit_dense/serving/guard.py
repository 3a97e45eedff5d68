"""Stand before the application: refuse requests of foreign pages, add security headers, count answers."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from repvit_dense.serving.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

POLICY = {
    'default-src': "'none'",
    'script-src': "'self'",
    'style-src': "'self'",
    'img-src': "'self' blob: data:",
    'media-src': 'blob:',
    'connect-src': "'self'",
    **dict.fromkeys(('base-uri', 'form-action', 'frame-ancestors'), "'none'"),
}
HEADERS = {
    'content-security-policy': '; '.join(f'{name} {value}' for name, value in POLICY.items()),
    'cross-origin-opener-policy': 'same-origin',
    'cross-origin-resource-policy': 'same-origin',
    'cache-control': 'no-cache',
    'permissions-policy': 'camera=(self)',
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
}
RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


class Guard:
    """An ASGI application around another.

    Args:
        app: the application.
        metrics: counts the answers.
        hosts: names that the Host header may have; None for any. A page of another site that points its own name at
            this machine (DNS rebinding) has another one.
        seconds: time limit of a request, from its head to the end of its answer.
    """

    def __init__(self, app: Application, metrics: Metrics, hosts: Collection[str] | None, seconds: float):
        self.app, self.metrics, self.hosts, self.seconds = app, metrics, hosts, seconds

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request; a client that neither sends nor reads is cut off."""
        if scope['type'] != 'http':
            return
        status = 0

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
                message = {**message, 'headers': [*message['headers'], *RAW_HEADERS]}
            await send(message)

        refusal = self._refuse(scope)
        answer = _answer(refusal, send_guarded) if refusal else self.app(scope, receive, send_guarded)
        try:
            await asyncio.wait_for(answer, self.seconds)
        except asyncio.TimeoutError:
            if not status:
                await _answer('the request took too long', send_guarded, 408)
            # Else the answer is not complete, and the server closes the connection.
        finally:
            self.metrics.count(status)

    def _refuse(self, scope: Message) -> str:
        """Return why a request is refused; an empty text if it is not."""
        headers = {name.decode('latin-1'): value.decode('latin-1') for name, value in scope['headers']}
        host = headers.get('host', '').lower()
        name = re.sub(r':\d*$', '', host).strip('[]')
        if self.hosts is not None and name not in self.hosts:
            return f'Host: {host}: this server answers to {", ".join(sorted(self.hosts))} only'
        origin = headers.get('origin')
        if origin is not None and urlsplit(origin.lower()).netloc != host:
            return f'Origin: {origin}: pages of other sites may not use this server'
        return ''


async def _answer(text: str, send: Send, status: int = 403) -> None:
    headers = [(b'content-type', b'application/json'), (b'connection', b'close')]
    await send({'type': 'http.response.start', 'status': status, 'headers': headers})
    await send({'type': 'http.response.body', 'body': json.dumps({'error': text}).encode()})
