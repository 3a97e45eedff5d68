"""Models go to the hub and come back through huggingface_hub, here against a small server in this process."""

import base64
import contextlib
import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from repvit_dense.artifact import hub, manifest
from repvit_dense.artifact.predictor import Predictor
from repvit_dense.checkpoints import fetching
from repvit_dense.errors import InputError

TOKEN = 'hf_' + 'x' * 30
ADDRESS = 'hf://me/cells'


class FakeHub:
    """Repositories: name -> [(commit, {path: content})], the newest last."""

    def __init__(self):
        self.repos, self.requests, self.refuses, self.private = {}, [], False, False

    def add(self, repo, files):
        versions = self.repos.setdefault(repo, [])
        content = {**(versions[-1][1] if versions else {}), **files}
        versions.append((hashlib.sha1(repr((len(versions), content)).encode()).hexdigest(), content))
        return versions[-1][0]

    def find(self, repo, revision, path):
        """Return (commit, content), or the code of an error of the hub."""
        if repo not in self.repos:
            return 'RepoNotFound'
        versions = dict(self.repos[repo])
        commit = self.repos[repo][-1][0] if revision == 'main' else revision
        if commit not in versions:
            return 'RevisionNotFound'
        return (commit, versions[commit][path]) if path in versions[commit] else 'EntryNotFound'


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_):
        pass

    def answer(self, status, content=b'', **headers):
        self.send_response(status)
        for name, value in {'Content-Length': len(content), **headers}.items():
            self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(content)

    def do_GET(self):
        if self.path.startswith('/api/models/'):
            self.answer(200, json.dumps({'id': self.path[12:], 'private': self.hub.private}).encode())
            return
        if self.path.startswith('/api/'):
            self.answer(403)
            return
        user, name, _, revision, path = self.path.split('?')[0].lstrip('/').split('/', 4)
        self.hub.requests.append(path)
        found = self.hub.find(f'{user}/{name}', revision, path)
        if isinstance(found, str):
            self.answer(404, X_Error_Code=found)
        else:
            etag = f'"{hashlib.sha1(found[1]).hexdigest()}"'
            self.answer(200, found[1], X_Repo_Commit=found[0], ETag=etag)

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        assert self.headers.get('Authorization', f'Bearer {TOKEN}') == f'Bearer {TOKEN}'
        repo = '/'.join(self.path.split('/')[3:5])
        if self.hub.refuses:
            self.answer(403, json.dumps({'error': f'bad token {TOKEN}'}).encode())
        elif self.path == '/api/repos/create':
            self.hub.repos.setdefault('me/' + json.loads(body)['name'], [])
            self.answer(200, b'{"url": "https://huggingface.co/me/cells"}')
        elif self.path == '/api/validate-yaml':
            assert yaml.safe_load(json.loads(body)['content'].split('---')[1])
            self.answer(200, b'{}')
        elif '/preupload/' in self.path:
            files = [
                {'path': f['path'], 'uploadMode': 'regular', 'shouldIgnore': False} for f in json.loads(body)['files']
            ]
            self.answer(200, json.dumps({'files': files}).encode())
        else:
            entries = [json.loads(line) for line in body.splitlines()]
            files = {e['value']['path']: base64.b64decode(e['value']['content']) for e in entries if e['key'] == 'file'}
            commit = self.hub.add(repo, files)
            self.answer(
                200,
                json.dumps(
                    {
                        'success': True,
                        'commitUrl': f'https://huggingface.co/{repo}/commit/{commit}',
                        'commitOid': commit,
                    }
                ).encode(),
            )


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Let huggingface_hub talk to a `FakeHub`, with an empty cache."""
    import huggingface_hub
    from huggingface_hub import constants

    fake = FakeHub()
    server = ThreadingHTTPServer(('127.0.0.1', 0), type('Bound', (Handler,), {'hub': fake}))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    fake.stop = lambda: (server.shutdown(), server.server_close())
    address = f'http://127.0.0.1:{server.server_port}'
    monkeypatch.setattr(constants, 'ENDPOINT', address)
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', address + '/{repo_id}/resolve/{revision}/{filename}')
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
    monkeypatch.setattr(huggingface_hub, 'get_token', lambda: TOKEN)
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    yield fake
    fake.stop()


@pytest.fixture(autouse=True)
def _online():
    yield
    fetching.set_offline(False)


def push(folder, **settings):
    return hub.push_artifact(folder, 'me/cells', **{'private': False, 'licence': None, 'message': None, **settings})


def test_an_artifact_comes_back_as_it_was(server, artifact):
    folder = artifact()
    address = Predictor(folder).push_to_hub('me/cells', license='MIT')
    server.add('me/cells', {'evil.py': b'1/0', 'unlisted.bin': b'x'})
    here = hub.fetch(ADDRESS)
    assert address == f'{ADDRESS}@{server.repos["me/cells"][0][0]}'
    assert {path.name: path.read_bytes() for path in here.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert not any(path.is_symlink() for path in here.iterdir())
    assert Predictor(here).manifest == manifest.read(folder)
    assert set(server.requests) == {'manifest.json', 'model.onnx'}
    card = server.repos['me/cells'][0][1]['README.md'].decode()
    assert f"rd.load('{ADDRESS}')" in card
    assert yaml.safe_load(card.split('---')[1])['license'] == 'mit'


def test_a_revision_is_pinned(server, artifact):
    first = push(artifact(classes=['a', 'b', 'c']))
    push(artifact(classes=['d', 'e', 'f']))
    assert manifest.read(hub.fetch(ADDRESS)).classes == ['d', 'e', 'f']
    assert manifest.read(hub.fetch(first)).classes == ['a', 'b', 'c']


@pytest.mark.parametrize('reason', ['option', 'connection'])
def test_the_cache_is_used_without_a_connection(server, artifact, reason):
    push(artifact())
    before = hub.fetch(ADDRESS)
    server.stop()
    fetching.set_offline(reason == 'option')
    assert hub.fetch(ADDRESS) == before


def test_an_unknown_model_is_named_offline(server):
    fetching.set_offline(True)
    with pytest.raises(InputError, match='hf://me/cells: not in the cache of this machine'):
        hub.fetch(ADDRESS)


def test_a_checkpoint_is_a_file(server):
    server.add('me/cells', {'model.safetensors': b'x', 'pytorch_model.bin': b'evil'})
    assert hub.fetch(ADDRESS).read_bytes() == b'x'
    assert hub.fetch(ADDRESS, trainable=True).name == 'model.safetensors'


@pytest.mark.parametrize(
    ('address', 'message'),
    [
        ('hf://me/missing', 'no such repository, or it is private'),
        ('hf://me/cells@v9', 'no such revision'),
        ('hf://me/cells', 'has no manifest.json or model.safetensors'),
    ],
)
def test_a_missing_part_is_named(server, address, message):
    server.add('me/cells', {'README.md': b''})
    with pytest.raises(InputError, match=message):
        hub.fetch(address)


@pytest.mark.parametrize('files', [{'../../evil': '0' * 64}, {'/etc/passwd': '0' * 64}, [], {}, None])
def test_a_manifest_cannot_lead_out_of_its_folder(server, files):
    server.add('me/cells', {'manifest.json': json.dumps({'files': files}).encode()})
    with pytest.raises(InputError, match=r'manifest\.json lists no files'):
        hub.fetch(ADDRESS)
    assert set(server.requests) == {'manifest.json'}


def test_a_file_that_changed_is_refused(server, artifact):
    push(artifact())
    server.add('me/cells', {'model.onnx': b'other'})
    with pytest.raises(InputError, match='changed since the export'):
        hub.fetch(ADDRESS)


def test_a_file_that_is_too_large_is_not_downloaded(server, artifact, monkeypatch):
    push(artifact())
    monkeypatch.setattr(hub, 'LARGEST', 100)
    with pytest.raises(InputError, match='at most 100 are downloaded'):
        hub.fetch(ADDRESS)


def test_a_push_needs_a_token(server, artifact, monkeypatch):
    monkeypatch.setattr('huggingface_hub.get_token', lambda: None)
    with pytest.raises(InputError, match=r'no access token of the hub; log in \(hf auth login\), or set HF_TOKEN'):
        push(artifact())
    assert server.repos == {}


@pytest.mark.parametrize('private', [True, False])
def test_a_private_push_needs_a_private_repository(server, artifact, private):
    server.private = private
    with contextlib.nullcontext() if private else pytest.raises(InputError, match='exists and is public'):
        push(artifact(), private=True)
    assert bool(server.repos['me/cells']) is private


def test_a_refused_push_does_not_show_the_token(server, artifact):
    server.refuses = True
    with pytest.raises(InputError, match='refuses this access token') as raised:
        push(artifact())
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize(
    'name', ['hf://', 'hf://me', 'hf://me/a/b', 'hf://../a', 'hf://me/..', 'hf://me/a@', 'hf://me/a@../b', 'hf://a b/c']
)
def test_an_impossible_address_is_refused(name):
    with pytest.raises(InputError, match='expected hf://USER/NAME'):
        hub.parse(name)


def test_without_the_package_its_installation_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(InputError, match='pip install huggingface_hub'):
        hub.fetch(ADDRESS)
