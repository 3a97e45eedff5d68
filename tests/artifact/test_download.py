"""Images from a web server; this one runs in a thread."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from repvit_dense.artifact import download, sources
from repvit_dense.artifact.images import read_input
from repvit_dense.errors import InputError

PNG = cv2.imencode('.png', np.full((6, 8, 3), 77, np.uint8))[1].tobytes()


class Handler(BaseHTTPRequestHandler):
    """Answer by path: status, headers and content."""

    answers = {
        '/a.png': (200, {'Content-Type': 'image/png', 'Content-Length': str(len(PNG))}, PNG),
        '/snapshot': (200, {'Content-Type': 'image/png'}, PNG),
        '/a%20b.png': (200, {}, PNG),
        '/moved.png': (302, {'Location': '/a.png'}, b''),
        '/to-file.png': (302, {'Location': 'file:///etc/passwd'}, b''),
        '/to-ftp.png': (302, {'Location': 'ftp://127.0.0.1/a'}, b''),
        '/loop.png': (302, {'Location': '/loop.png'}, b''),
        '/page.png': (200, {'Content-Type': 'text/html'}, b'<html>'),
        '/short.png': (200, {'Content-Length': '100000'}, PNG),
        '/live': (200, {'Content-Type': 'multipart/x-mixed-replace; boundary=x'}, b''),
        '/live.png': (200, {'Content-Type': 'multipart/x-mixed-replace; boundary=x'}, b''),
    }

    def do_GET(self):
        status, headers, content = self.answers.get(self.path, (404, {}, b''))
        if self.path == '/secret.png':
            right = self.headers.get('Authorization') == 'Basic dXNlcjpwOnc='
            status, headers, content = (200, {}, PNG) if right else (401, {}, b'')
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope='module')
def server():
    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f'http://127.0.0.1:{running.server_port}'
        running.shutdown()
        thread.join()


@pytest.mark.parametrize('path', ['a.png', 'snapshot', 'a b.png', 'moved.png'])
def test_an_image_is_fetched(server, path):
    assert (read_input(f'{server}/{path}') == 77).all()


@pytest.mark.parametrize(
    'path, reason',
    [
        ('none.png', '404'),
        ('to-file.png', 'not allowed|unknown url type|Redirection'),
        ('to-ftp.png', 'unknown url type|not allowed'),
        ('loop.png', 'infinite loop|30[12]'),
        ('page.png', 'cannot be read as an image'),
        ('short.png', 'the connection ended after'),
        ('live.png', 'is a video .multipart'),
    ],
)
def test_an_address_without_an_image(server, path, reason):
    with pytest.raises(InputError, match=reason) as error:
        read_input(f'{server}/{path}')
    assert f'{server}/{path}: ' in str(error.value)


def test_a_large_file_is_not_read_to_its_end(server, monkeypatch):
    monkeypatch.setattr(download, 'LARGEST', 10)
    with pytest.raises(InputError, match='has more than 10 bytes'):
        read_input(f'{server}/a.png')


def test_the_number_of_pixels_is_limited(server):
    with pytest.raises(InputError, match='at most 10 are read'):
        read_input(f'{server}/a.png', max_pixels=10)


def test_a_password_is_sent_and_not_shown(server):
    address = server.replace('//', '//user:p%3Aw@')
    assert (read_input(f'{address}/secret.png') == 77).all()
    with pytest.raises(InputError) as error:
        read_input(f'{address}/none.png')
    assert 'user:***@' in str(error.value)


def test_a_host_that_does_not_answer():
    for address in ('http://127.0.0.1:1/a.png', 'http://', 'http://[', 'http://a:b:c/x.png'):
        with pytest.raises(InputError, match='cannot be fetched'):
            read_input(address)


def test_an_address_without_suffix_is_asked_for_its_kind(server, monkeypatch):
    monkeypatch.setattr(sources, 'open_video', lambda name, address: sources.Video(name, address))
    image, stream = sources.find([f'{server}/snapshot', f'{server}/live'])
    assert (image.content, image.is_video) == (f'{server}/snapshot', False)
    assert stream.is_video


def test_file_names_of_addresses_stay_in_the_folder():
    assert download.file_name('https://host/a/b.jpg?x=1') == 'b.jpg'
    assert download.file_name('https://host/%2e%2e%2fevil.jpg') == 'evil.jpg'
    assert download.file_name('https://host/') == 'host'
