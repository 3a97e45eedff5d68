"""Fetch an image from a web address: over HTTP only, within a time and a size, and without passing a password on."""

import base64
import re
import time
from http.client import HTTPException, HTTPResponse
from pathlib import PurePosixPath
from urllib import error as urllib_error
from urllib import parse, request

from repvit_dense import __version__
from repvit_dense.errors import InputError

LARGEST = 256 << 20  # bytes
PATIENCE = 20  # seconds without an answer
LONGEST = 300  # seconds for the whole file
CHUNK = 1 << 16  # bytes


def is_url(name: object) -> bool:
    """Return whether a name is an address of the web: `http://` or `https://`."""
    return isinstance(name, str) and re.match(r'https?://', name, re.I) is not None


def without_password(url: str) -> str:
    """Return an address in which the password is replaced by `***`."""
    return re.sub(r'^(\w+://[^/@:]*):[^/]*@', r'\1:***@', url)


def file_name(url: str) -> str:
    """Return the file name at the end of an address, or its host."""
    parts = parse.urlsplit(url)
    try:
        host = parts.hostname
    except ValueError:
        host = None
    return PurePosixPath(parse.unquote(parts.path)).name.replace('/', '_') or host or 'image'


def fetch(url: str) -> bytes:
    """Return the content of a web address.

    Raises:
        InputError: it cannot be fetched, is a stream of video, or has more than `LARGEST` bytes.
    """
    name, end = without_password(url), time.monotonic() + LONGEST
    with _open(url) as response:
        if is_video(response):
            raise InputError(f'{name}: is a video ({response.headers.get_content_type()}), not an image')
        announced = response.headers.get('Content-Length', '')
        content = bytearray()
        try:
            while chunk := response.read1(CHUNK):
                content += chunk
                if len(content) > LARGEST:
                    raise InputError(f'{name}: has more than {LARGEST:,} bytes, more are not fetched')
                if time.monotonic() > end:
                    raise InputError(f'{name}: took more than {LONGEST} s, the rest is not fetched')
        except (OSError, HTTPException) as error:
            raise InputError(f'{name}: cannot be fetched ({error or type(error).__name__})') from error
    if announced.isdecimal() and len(content) < int(announced):
        raise InputError(
            f'{name}: cannot be fetched (the connection ended after {len(content):,} of {announced} bytes)'
        )
    return bytes(content)


def leads_to_video(url: str) -> bool:
    """Ask a web address for the kind of its content.

    Raises:
        InputError: it does not answer.
    """
    with _open(url) as response:
        return is_video(response)


def is_video(response: HTTPResponse) -> bool:
    """Return whether an answer announces a video or a stream of frames."""
    kind = response.headers.get_content_type()
    return kind.startswith(('video/', 'multipart/')) or 'mpegurl' in kind


def _open(url: str) -> HTTPResponse:
    """Send a GET request; unlike `urllib.request.urlopen`, no redirect leads to a file or to another protocol."""
    opener = request.OpenerDirector()
    for handler in (
        *(request.ProxyHandler(), request.HTTPHandler(), request.HTTPSHandler(), request.HTTPRedirectHandler()),
        *(request.HTTPDefaultErrorHandler(), request.HTTPErrorProcessor(), request.UnknownHandler()),
    ):
        opener.add_handler(handler)
    name = without_password(url)
    try:
        parts = parse.urlsplit(url)
        secret = f'{parse.unquote(parts.username or "")}:{parse.unquote(parts.password or "")}'
        address = parts._replace(
            netloc=parts.netloc.rpartition('@')[2],
            path=parse.quote(parts.path, safe="/%:@!$&'()*+,;=~-._"),
            query=parse.quote(parts.query, safe="/%:@!$&'()*+,;=~-._?"),
            fragment='',
        )
        question = request.Request(parse.urlunsplit(address), headers={'User-Agent': f'repvit-dense/{__version__}'})
        if parts.username:
            basic = base64.b64encode(secret.encode()).decode()
            question.add_unredirected_header('Authorization', f'Basic {basic}')
        return opener.open(question, timeout=PATIENCE)
    except urllib_error.HTTPError as error:
        raise InputError(f'{name}: cannot be fetched ({error.code} {error.reason})') from error
    except (OSError, ValueError, HTTPException) as error:  # of the system, of the address, of the answer
        reason = getattr(error, 'reason', None) or str(error) or type(error).__name__
        raise InputError(f'{name}: cannot be fetched ({" ".join(str(reason).split())})') from error
