"""`serve`: refusals before the model is loaded, the address, and the end by a signal."""

import importlib.util
import json
import os
import re
import signal
import socket
import threading
import urllib.request

import pytest

from repvit_dense import cli
from repvit_dense.commands import load, serve
from repvit_dense.serving import server
from tests.serving.conftest import Fake


@pytest.fixture
def fake(monkeypatch):
    """Serve a fast model, whatever is named."""
    model = Fake()
    monkeypatch.setattr(load, 'run', lambda options: model)
    return model


@pytest.fixture
def no_model(monkeypatch):
    """Let no model be loaded."""
    monkeypatch.setattr(load, 'run', lambda options: pytest.fail('the model was loaded'))


@pytest.mark.usefixtures('no_model')
@pytest.mark.parametrize('host', ['127.0.0.1', '::1'])
def test_a_port_in_use_is_refused(refuse_in_a_line, host):
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as other:
        port = other.getsockname()[1]
        message = refuse_in_a_line('serve', 'model', '--host', host, '--port', port)
    assert f'--port {port}: cannot be listened on (Address already in use); --port 0 chooses a free one' in message


@pytest.mark.usefixtures('no_model')
@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--host', 'no.such.host.invalid'], '--host no.such.host.invalid: no such host'),
        (['--host', '192.0.2.1'], '--host 192.0.2.1 --port 8000: cannot be listened on'),
        (['--score', '2'], '--score 2.0: must be a number between 0 and 1'),
        (['--score', 'nan'], '--score nan: must be a number between 0 and 1'),
    ],
)
def test_options_that_cannot_be_used(refuse_in_a_line, arguments, message):
    assert message in refuse_in_a_line('serve', 'model', *arguments)


@pytest.mark.usefixtures('no_model')
def test_missing_libraries_are_named(refuse_in_a_line, monkeypatch):
    present = importlib.util.find_spec
    monkeypatch.setattr(serve, 'find_spec', lambda name: None if name == 'uvicorn' else present(name))
    assert 'serve needs uvicorn: pip install "repvit_dense[serve]"' in refuse_in_a_line('serve', 'model')


def test_models_that_predict_no_images_or_batches(refuse_in_a_line, fake, monkeypatch):
    assert '--batch 4: goes with an artifact' in refuse_in_a_line('serve', 'model', '--port', '0', '--batch', '4')
    fake.failure = RuntimeError('no kernel')
    assert 'the model fails with every image' in refuse_in_a_line('serve', 'model', '--port', '0')
    monkeypatch.setattr(load, 'run', lambda options: object())
    assert 'm1_1: a backbone alone predicts nothing' in refuse_in_a_line('serve', 'm1_1', '--port', '0')


@pytest.mark.usefixtures('fake')
@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_server(capsys, monkeypatch, number, code):
    answers, url_of = [], server.url_of
    handler = signal.getsignal(signal.SIGTERM)

    def ask(address):
        with urllib.request.urlopen(address + 'model', timeout=20) as answer:
            answers.append(json.load(answer))
        os.kill(os.getpid(), number)

    def ask_later(listener):
        address = url_of(listener)
        threading.Thread(target=ask, args=(address,), daemon=True).start()
        return address

    monkeypatch.setattr(server, 'url_of', ask_later)
    with pytest.raises(SystemExit) as ended:
        cli.main('serve', ['model', '--port', '0', '--max-megabytes', '3'])
    assert ended.value.code == code
    assert answers[0]['max_bytes'] == 3_000_000
    assert re.search(r'^Page: http://127.0.0.1:\d+/$', capsys.readouterr().out, re.M)
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.usefixtures('fake')
def test_an_address_of_the_network_is_warned_of(capsys, monkeypatch):
    monkeypatch.setattr('uvicorn.Server.run', lambda self, sockets: None)
    cli_code = pytest.raises(SystemExit, cli.main, 'serve', ['model', '--port', '0', '--host', '0.0.0.0'])
    assert not cli_code.value.code
    captured = capsys.readouterr()
    assert 'warning: --host 0.0.0.0: everyone who reaches this machine can use the model; no password' in captured.err
    assert re.fullmatch(r'Page: http://localhost:\d+/\n', captured.out)
