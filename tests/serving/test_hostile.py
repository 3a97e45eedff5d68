"""Uploads and clients that mean no good: each gets an answer or is cut off, and the next request is served."""

import json
import socket
import struct
import time
import zlib

import pytest

from repvit_dense.serving import server
from repvit_dense.serving.metrics import resident_memory


def bomb(width, height):
    """Return a PNG file of a few bytes that claims to be large."""

    def chunk(name, content):
        return struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))

    head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')


PNG = bomb(20, 20)
BODIES = {
    'empty': (b'', 'file is empty'),
    'HTML': (b'<!doctype html><script>alert(1)</script>', 'cannot be read as an image'),
    'truncated': (PNG[:30], 'cannot be read as an image'),
    'no pixels': (PNG, 'cannot be read as an image'),
    'bomb': (bomb(60_000, 60_000), 'has 60000x60000 pixels, at most 400,000 are read'),
    'a side': (bomb(2**31 - 1, 1), 'pixels, at most'),
    'zeros': (bytes(1000), 'cannot be read as an image'),
    'JPEG without end': (b'\xff\xd8' + b'\xff' * 99_000, 'cannot be read as an image'),
    'SVG': (b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', 'cannot be read as an image'),
}


def test_bodies_that_are_no_images(client):
    for name, (body, message) in BODIES.items():
        status, answer = client.predict(body)
        assert (name, status) == (name, 400)
        assert message in answer['error'], name


@pytest.mark.parametrize(
    'kind', ['multipart/form-data; boundary=x', 'application/x-www-form-urlencoded', 'text/plain', 'text/html', '']
)
def test_types_that_a_form_of_another_site_can_send_are_refused(client, png, kind):
    body = b'--x\r\nContent-Disposition: form-data; name="../../etc/passwd"\r\n\r\n1\r\n' * 1000
    status, answer = client.predict(body, **{'Content-Type': kind})
    assert status == 415
    assert 'curl --data-binary' in answer['error']


def exchange(client, *parts, pause=0.0):
    """Send parts of a request as they are; return all that comes back."""
    with socket.create_connection(('127.0.0.1', client.port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except (BrokenPipeError, ConnectionResetError):
            pass
        received = b''
        try:
            while content := connection.recv(1 << 16):
                received += content
        except ConnectionResetError:
            pass
        return received


HEAD = b'POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n'


def test_a_large_file_is_refused_before_it_is_received(client):
    answer = exchange(client, HEAD + b'Content-Length: 1000000000\r\n\r\n')
    assert b' 413 ' in answer
    assert b'more than 100,000 bytes' in answer
    assert b' 4' in exchange(client, HEAD + b'Content-Length: %s\r\n\r\n' % (b'9' * 5000))


def test_a_body_without_a_length_is_cut_off_at_the_limit(client):
    before = resident_memory()
    chunk = b'10000\r\n' + bytes(0x10000) + b'\r\n'
    answer = exchange(client, HEAD + b'Transfer-Encoding: chunked\r\n\r\n', *[chunk] * 800)  # 50 MB of a GB
    assert answer == b'' or b' 413 ' in answer  # or the connection was reset
    assert resident_memory() - before < 20_000_000


@pytest.mark.parametrize(
    'head',
    [
        b'\0\1\2\3\r\n\r\n',
        b'GET / HTTP/9.9\r\n\r\n',
        b'GET / HTTP/1.1\r\n\r\n',
        HEAD + b'Content-Length: -1\r\n\r\n',
        HEAD + b'Transfer-Encoding: chunked\r\n\r\nxyz\r\n',
        b'GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n',
        b'GET / HTTP/1.1\r\nHost: localhost\r\nX: ' + b'a' * 200_000,
    ],
)
def test_heads_that_are_not_http(client, head):
    assert exchange(client, head)[9:10] in (b'4', b'')


def test_slow_clients_are_cut_off(serve, png, monkeypatch):
    monkeypatch.setattr(server, 'HEAD_SECONDS', 0.2)
    client = serve(seconds=0.3)
    assert exchange(client) == b''
    assert exchange(client, b'GET / HT') == b''
    assert b' 408 ' in exchange(client, HEAD + b'Content-Length: 100\r\n\r\n', b'x', b'x', pause=0.05)
    twice = b'GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n'
    assert exchange(client, twice, b'GET /hea', pause=0.05).count(b'HTTP/1.1 200') == 1
    assert client.predict(png())[0] == 200


def test_a_client_that_leaves_frees_its_place(serve, model, png):
    model.go.clear()
    client = serve(queue=1)
    with socket.create_connection(('127.0.0.1', client.port)) as connection:
        connection.sendall(HEAD + b'Content-Length: 5000\r\n\r\nx')
        client.wait_for('waiting_requests', 1)
    client.wait_for('waiting_requests', 0)
    with socket.create_connection(('127.0.0.1', client.port)) as connection:
        connection.sendall(HEAD + b'Content-Length: %d\r\n\r\n' % len(png()) + png())
        client.wait_for('waiting_requests', 1)
    client.wait_for('waiting_requests', 0)
    model.go.set()
    assert client.predict(png())[0] == 200


def test_memory_does_not_grow_with_requests(client, png):
    body = png(200, 100, 100)
    for _ in range(20):
        client.predict(body)
    before = resident_memory()
    for _ in range(100):
        client.predict(body)
        client.predict(BODIES['bomb'][0])
    assert resident_memory() - before < 8_000_000


# --- other sites ---


@pytest.mark.parametrize('host', ['evil.example', 'evil.example:8000', '127.0.0.1.evil.example', '10.0.0.1', ''])
def test_a_name_of_another_site_is_refused(client, host):
    for path in ('/', '/model', '/metrics'):
        status, headers, content = client.ask(path, headers={'Host': host})
        assert status == 403
        assert 'Access-Control-Allow-Origin' not in headers
        assert 'localhost' in json.loads(content)['error']


@pytest.mark.parametrize('host', ['localhost', 'LOCALHOST:99', '127.0.0.1', '[::1]:8000'])
def test_names_of_this_machine_are_accepted(client, host):
    assert client.ask('/health', headers={'Host': host})[0] == 200


@pytest.mark.parametrize('origin', ['https://evil.example', 'null', 'http://127.0.0.1:1', 'http://localhost'])
def test_pages_of_other_sites_are_refused(client, png, origin):
    status, answer = client.predict(png(), Origin=origin)
    assert status == 403
    assert 'other sites' in answer['error']
    assert client.ask('/predict', method='OPTIONS', headers={'Origin': origin})[0] == 403


def test_the_page_loads_nothing_from_elsewhere(client):
    for path in ('/', '/serve.js', '/viewer.js', '/style.css'):
        status, headers, content = client.ask(path)
        assert status == 200
        assert b'://' not in content.replace(b'http://www.w3.org', b'')
        assert "default-src 'none'" in headers['Content-Security-Policy']
        assert headers['X-Content-Type-Options'] == 'nosniff'
