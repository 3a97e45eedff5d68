"""Downloads are cached once, checked, and left to the first process of a job."""

import http.server
import socket
import threading

import pytest
import torch
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file

from repvit_dense import catalogue
from repvit_dense.checkpoints.reading import CheckpointError, read


def same(a, b):
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)


def copied(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.fixture
def server(tmp_path):
    """Serve `tmp_path/web` over HTTP; return the address, the folder and a list of the requested paths."""
    folder, requested = tmp_path / 'web', []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            requested.append(self.path)

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as web:
        threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
        yield f'http://127.0.0.1:{web.server_port}', folder, requested
        web.shutdown()


def test_a_download_is_cached(server, cache_dir, tiny):
    address, folder, requested = server
    torch.save({'model': copied(tiny)}, folder / 'a.pth')
    for _ in range(2):
        assert same(read(f'{address}/a.pth')['model'], tiny.state_dict())
    assert requested == ['/a.pth']
    assert [path.name for path in cache_dir.iterdir()] == ['a.pth']


@pytest.mark.parametrize('content', [b'<html>404</html>', b'PK\x03\x04 cut short'])
def test_a_download_that_is_no_checkpoint_is_deleted(server, cache_dir, content):
    address, folder, _ = server
    (folder / 'a.pth').write_bytes(content)
    with pytest.raises(CheckpointError):
        read(f'{address}/a.pth')
    assert list(cache_dir.iterdir()) == []


def test_without_network_the_message_says_where_to_put_the_file(cache_dir):
    with socket.socket() as closed:
        closed.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{closed.getsockname()[1]}/a.pth'
    with pytest.raises(CheckpointError) as caught:
        read(url)
    assert url in str(caught.value)
    assert str(cache_dir / 'a.pth') in str(caught.value)
    assert 'by hand' in str(caught.value)


def test_a_missing_page_is_reported(server, cache_dir):
    with pytest.raises(CheckpointError, match='404'):
        read(f'{server[0]}/missing.pth')


def test_catalogue_names_use_the_same_cache(cache_dir, tiny):
    cache_dir.mkdir(parents=True)
    save_file(copied(tiny), cache_dir / 'repvit_m1_1.dist_450e_in1k.safetensors')
    torch.save(copied(tiny), cache_dir / 'repvit_m1_1_distill_450e.pth')
    for name in ('timm/repvit_m1_1.dist_450e_in1k', 'repvit_m1_1_distill_450e.pth'):
        assert same(read(name), tiny.state_dict())
        assert same(read(catalogue.resolve(name)[0]), tiny.state_dict())


@pytest.mark.parametrize('source', ['torchvision://net', 'open-mmlab://net', 'openmmlab://old'])
@pytest.mark.usefixtures('safe_loading')
def test_schemes_of_mmengine_are_downloaded_safely(server, cache_dir, tiny, monkeypatch, source):
    address, folder, requested = server
    torch.save(copied(tiny), folder / 'net.pth')
    for function in ('get_torchvision_models', 'get_external_models'):
        monkeypatch.setattr(f'mmengine.runner.checkpoint.{function}', lambda: {'net': f'{address}/net.pth'})
    monkeypatch.setattr('mmengine.runner.checkpoint.get_deprecated_model_names', lambda: {'old': 'net'})
    assert same(CheckpointLoader.load_checkpoint(source), tiny.state_dict())
    assert requested == ['/net.pth']


@pytest.mark.parametrize(('rank', 'downloads'), [(0, 1), (1, 0)])
def test_only_the_first_rank_downloads(server, cache_dir, monkeypatch, rank, downloads):
    address, folder, requested = server
    torch.save({'a': torch.ones(1)}, folder / 'a.pth')
    reached = []

    def barrier():
        reached.append(len(requested))
        if rank:  # meanwhile the first rank has downloaded the file
            cache_dir.mkdir(parents=True)
            torch.save({'a': torch.ones(1)}, cache_dir / 'a.pth')

    monkeypatch.setattr('mmengine.dist.get_dist_info', lambda: (rank, 2))
    monkeypatch.setattr(torch.distributed, 'barrier', barrier)
    read(f'{address}/a.pth')
    assert reached == [downloads]
    assert len(requested) == downloads


def test_after_a_failed_download_the_other_ranks_continue(server, cache_dir, monkeypatch):
    reached = []
    monkeypatch.setattr('mmengine.dist.get_dist_info', lambda: (0, 2))
    monkeypatch.setattr(torch.distributed, 'barrier', lambda: reached.append(True))
    with pytest.raises(CheckpointError):
        read(f'{server[0]}/missing.pth')
    assert reached == [True]
