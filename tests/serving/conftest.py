"""A server in a thread, with a fast model of our own."""

import contextlib
import http.client
import json
import threading
import time

import cv2
import numpy as np
import pytest

from repvit_dense.artifact.predictor import ImageModel
from repvit_dense.serving import server
from repvit_dense.serving.app import Limits

IMAGE = {'Content-Type': 'image/png'}


class Fake(ImageModel):
    """A cat in the left half of the image, whose score is the image's brightness, and an uncertain dog in the right.

    It waits for `go`, and notes the sizes of its batches. Other kinds: classes or segments of stripes.
    """

    names, palette, title = ['cat', 'dog'], [[255, 0, 0], [0, 0, 255]], 'fake'

    def __init__(self):
        self.go, self.batches, self.failure, self.kind = threading.Event(), [], None, 'instance'
        self.go.set()

    def _predict(self, images):
        assert self.go.wait(20)
        self.batches.append(len(images))
        if self.failure:
            raise self.failure
        return [self._answer(image) for image in images]

    def _answer(self, image):
        height, width = image.shape[:2]
        if self.kind == 'semantic':
            return {'seg': np.arange(height * width).reshape(height, width) % 3}
        if self.kind == 'panoptic':
            numbers = np.repeat([0, 7, 9], [height // 2, height // 4, height - height // 2 - height // 4])
            info = [{'number': 7, 'label': 0, 'is_thing': True}, {'number': 9, 'label': 0, 'is_thing': True}]
            return {'segments': np.tile(numbers[:, None], width), 'segment_info': info}
        masks = np.zeros((2, height, width), bool)
        masks[0, :, : width // 2] = masks[1, :, width // 2 :] = True
        boxes = np.array([[0, 0, width / 2, height], [width / 2, 0, width, height]], np.float32)
        scores = np.array([image.mean() / 255, 0.1], np.float32)
        return {'boxes': boxes, 'scores': scores, 'labels': np.array([0, 1]), 'masks': masks}


class Client:
    """Requests to a server on this machine."""

    def __init__(self, port, server):
        self.port, self.url, self.server = port, f'http://127.0.0.1:{port}/', server

    def ask(self, path, body=None, headers=IMAGE, method=None):
        """Return status, headers and body of an answer."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method or ('GET' if body is None else 'POST'), path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def predict(self, body, **headers):
        """Return status and decoded answer of /predict."""
        status, _, content = self.ask('/predict', body, IMAGE | headers)
        return status, json.loads(content)

    def metric(self, name):
        """Return a value of /metrics."""
        lines = self.ask('/metrics')[2].decode().splitlines()
        return next((float(line.split()[1]) for line in lines if line.startswith(f'repvit_dense_{name} ')), 0)

    def wait_for(self, name, value):
        """Wait until a value of /metrics is reached."""
        deadline = time.monotonic() + 20
        while self.metric(name) != value:
            assert time.monotonic() < deadline, (name, self.metric(name))
            time.sleep(0.01)


@contextlib.contextmanager
def running(model, **limits):
    """Serve a model in a thread; yield a client."""
    values = {'bytes': 100_000, 'pixels': 400_000, 'queue': 64, 'seconds': 20, **limits}
    with server.listen('127.0.0.1', 0) as listener:
        built = server.build_server(model, listener, Limits(**values), 0.05)
        thread = threading.Thread(target=built.run, kwargs={'sockets': [listener]}, daemon=True)
        thread.start()
        try:
            yield Client(listener.getsockname()[1], built)
        finally:
            built.should_exit = True
            thread.join(20)


@pytest.fixture
def model():
    """Return a model that does not wait when the test ends."""
    fake = Fake()
    yield fake
    fake.go.set()


@pytest.fixture
def serve(model):
    """Return `serve(**limits)`, a client of a new server."""
    with contextlib.ExitStack() as stack:
        yield lambda **limits: stack.enter_context(running(model, **limits))


@pytest.fixture(scope='module')
def shared():
    """Return a client of the server of all tests of a file."""
    with running(Fake(), seconds=1) as client:
        yield client


@pytest.fixture
def client(shared, png):
    """Return a client whose server is well after the test."""
    yield shared
    assert shared.predict(png())[0] == 200
    assert shared.metric('waiting_requests') == 0


@pytest.fixture
def png():
    """Return `png(brightness, height, width)`, the bytes of a file."""

    def encode(brightness=200, height=40, width=60):
        return cv2.imencode('.png', np.full((height, width, 3), brightness, np.uint8))[1].tobytes()

    return encode
