"""Reading runs no code, names what is wrong, and downloads once."""

import argparse
import http.server
import io
import os
import pickle
import re
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, BaseModule
from mmengine.runner import CheckpointLoader, Runner
from safetensors.torch import save_file
from torch import nn

from repvit_dense.backbones import RepViT, catalogue
from repvit_dense.checkpoints import reading
from repvit_dense.checkpoints.reading import CheckpointError, read
from repvit_dense.compat import safe_loading as safe_loading_change

GOLDEN = Path(__file__).parents[1] / 'golden'


def same(a, b):
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)


def copied(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.fixture
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    return tmp_path / 'torch' / 'hub' / 'checkpoints'


@pytest.fixture
def safe_loading():
    with safe_loading_change.patched(read):
        yield


def test_read_takes_paths_urls_and_both_formats(tiny, tmp_path, monkeypatch):
    state = copied(tiny)
    torch.save({'model': state}, tmp_path / 'a.pth')
    torch.save(state, tmp_path / 'b.pt', _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / 'c.safetensors')
    assert same(read(tmp_path / 'a.pth')['model'], state)
    assert same(read(str(tmp_path / 'b.pt')), state)
    assert same(read((tmp_path / 'c.safetensors').as_uri()), state)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert same(read('~/a.pth')['model'], state)
    assert read(tmp_path / 'c.safetensors', torch.device('meta'))['stem.conv1.conv.weight'].is_meta


def test_a_command_line_saved_with_the_weights_is_harmless(tmp_path):
    torch.save({'model': {}, 'args': argparse.Namespace(lr=0.1)}, tmp_path / 'a.pth')
    assert read(tmp_path / 'a.pth')['args'].lr == 0.1


def damaged(tmp_path, kind, state):
    path = tmp_path / 'weights.pth'
    if kind in ('truncated', 'empty', 'no zip'):
        torch.save(state, path)
        content = path.read_bytes()
        path.write_bytes({'truncated': content[: len(content) // 2], 'empty': b'', 'no zip': content[:2]}[kind])
    elif kind == 'flipped':
        torch.save(state, path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == 'safetensors':
        path = path.with_suffix('.safetensors')
        save_file(state, path)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == 'safetensors header':
        path = path.with_suffix('.safetensors')
        save_file(state, path)
        path.write_bytes(path.read_bytes()[:100])
    return path


@pytest.mark.parametrize('kind', ['truncated', 'empty', 'no zip', 'flipped', 'safetensors', 'safetensors header'])
def test_damaged_files_are_named_as_such(tmp_path, tiny, kind):
    path = damaged(tmp_path, kind, copied(tiny))
    with pytest.raises(CheckpointError, match=rf'{re.escape(str(path))}: truncated.*corrupt.*get it again'):
        read(path)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'\n<!DOCTYPE html><html>sign in</html>', 'web page'),
        (b'version https://git-lfs.github.com/spec/v1 oid', 'never was a checkpoint'),
        (pickle.dumps({'a': 1}, protocol=5), 'not written by torch.save'),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, content, words):
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path / 'a.pth')


def test_bare_list_is_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='contains a list'):
        read(tmp_path / 'a.pth')


@pytest.mark.parametrize(
    ('source', 'words'),
    [
        ('missing/epoch_12.pth', r'missing/epoch_12\.pth: no such file'),
        ('timm/repvit_m1_1.dist_in1k', r'no such file.*nearest: timm/repvit_m1_1\.dist_'),
        ('file:///missing/a.pth', 'no such file'),
        ('s3://bucket/a.pth', "'s3://' cannot be read safely; download"),
        ('torchvision://resnet5', r'unknown model.*nearest: .*resnet50'),
        ('.', 'cannot be read'),
    ],
)
def test_what_cannot_be_found_says_so(source, words):
    with pytest.raises(CheckpointError, match=words):
        read(source)


# --- files that want to run code ---


class Runs:
    """Unpickled in the ordinary way, it calls a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def write_malicious(folder, call='os.system', container='zip'):
    """A checkpoint that creates the file `folder/ran` if anything in it is executed; the pair of both paths."""
    ran, path = folder / 'ran', folder / 'malicious.pth'
    calls = {
        'os.system': Runs(os.system, f'touch {ran}'),
        'exec': Runs(exec, f'open({str(ran)!r}, "w")'),
        'open': Runs(io.open, str(ran), 'w'),
        'touch': Runs(Path.touch, ran),
    }
    content = {'state_dict': {'weight': torch.ones(1)}, 'meta': {'epoch': 1, 'iter': 1}, 'extra': calls[call]}
    if container == 'pickle':
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == 'zip')
    return path, ran


def test_the_malicious_file_of_these_tests_is_real(tmp_path):
    path, ran = write_malicious(tmp_path)
    torch.load(path, weights_only=False)
    assert ran.exists()


@pytest.mark.parametrize('container', ['zip', 'legacy', 'pickle'])
@pytest.mark.parametrize('call', ['os.system', 'exec', 'open', 'touch'])
def test_reading_runs_nothing(tmp_path, monkeypatch, call, container):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')  # must not open the door again
    path, ran = write_malicious(tmp_path, call, container)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert not ran.exists()
    assert 'not trusted, and nothing in it was executed: it refers to' in str(caught.value)
    if container != 'pickle':  # which has the tensors' own loader in it, and that is refused first
        assert {'os.system': 'posix.system', 'touch': 'pathlib'}.get(call, call) in str(caught.value)


@pytest.mark.parametrize(
    'content',
    [
        Runs(getattr, HistoryBuffer, '__init__'),
        Runs(getattr, np.ndarray, 'tofile'),
        Runs(np.dtype, 'O8', False, True),
        Runs(np.dtype, [('a', 'O')]),
        np.array([{}], dtype=object),
        np.array(['text']),
    ],
    ids=['attribute of history', 'attribute of array', 'object dtype', 'void dtype', 'objects', 'text'],
)
def test_only_plain_numbers_come_from_numpy(tmp_path, content):
    torch.save({'state_dict': {'weight': torch.ones(1)}, 'x': content}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='nothing in it was executed'):
        read(tmp_path / 'a.pth')


def test_a_crafted_dtype_cannot_reach_foreign_memory(tmp_path):
    class Crafted:
        """A float64 whose pickled state says: each element is a thousand of them."""

        def __reduce__(self):
            return np.dtype, ('f8', False, True), (3, '<', (np.dtype('f8'), (1000,)), None, None, -1, -1, 0)

    scalar = np.float64(0).__reduce__()[0]
    torch.save({'x': Runs(scalar, Crafted(), bytes(8))}, tmp_path / 'a.pth')
    assert read(tmp_path / 'a.pth') == {'x': 0.0}


def test_numbers_and_arrays_of_numpy_are_read(tmp_path):
    content = {
        'a': np.arange(6.0).reshape(2, 3),
        'b': np.float32(1.5),
        'c': np.array([1, 2], '>i4'),
        'd': np.bool_(True),
    }
    torch.save(content, tmp_path / 'a.pth')
    back = read(tmp_path / 'a.pth')
    assert all(np.array_equal(back[key], content[key]) for key in content)
    again = pickle.loads(pickle.dumps(back))
    assert type(again['a']) is np.ndarray


def test_init_cfg_runs_nothing(tmp_path, tiny_arch):
    path, ran = write_malicious(tmp_path)
    net = RepViT(tiny_arch, init_cfg={'type': 'Pretrained', 'checkpoint': str(path)})
    with pytest.raises(CheckpointError, match='nothing in it was executed'):
        net.init_weights()
    assert not ran.exists()


class StockBackbone(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.layer = nn.Linear(2, 2)


@pytest.mark.usefixtures('safe_loading')
def test_init_cfg_of_a_stock_backbone_is_safe_too(tmp_path):
    path, ran = write_malicious(tmp_path)
    with pytest.raises(CheckpointError, match='nothing in it was executed'):
        StockBackbone({'type': 'Pretrained', 'checkpoint': str(path)}).init_weights()
    assert not ran.exists()
    torch.save(
        {'state_dict': {'layer.weight': torch.full((2, 2), 5.0), 'layer.bias': torch.ones(2)}}, tmp_path / 'a.pth'
    )
    net = StockBackbone({'type': 'Pretrained', 'checkpoint': str(tmp_path / 'a.pth')})
    net.init_weights()
    assert net.layer.weight.unique().tolist() == [5]


@pytest.mark.usefixtures('safe_loading')
@pytest.mark.parametrize('scheme', ['pavi', 's3', 'petrel', 'cluster:s3', 'mmcls'])
def test_schemes_that_cannot_be_read_safely_are_refused(scheme):
    with pytest.raises(CheckpointError, match='cannot be read safely'):
        CheckpointLoader.load_checkpoint(f'{scheme}://a/b.pth')


# --- with mmengine's runner ---


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, inputs, mode='tensor'):
        out = self.layer(torch.stack(inputs))
        return {'loss': out.sum()} if mode == 'loss' else out


class Data(torch.utils.data.Dataset):
    metainfo = {'classes': ('a', 'b'), 'palette': [(1, 2, 3), (4, 5, 6)]}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {'inputs': torch.ones(2)}


def runner(work_dir, epochs=1, **options):
    name = f'{Path(work_dir).name}_{epochs}_{len(options)}_{os.urandom(4).hex()}'
    return Runner(
        Toy(),
        str(work_dir),
        train_dataloader={'dataset': Data(), 'batch_size': 2, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
        train_cfg={'by_epoch': True, 'max_epochs': epochs},
        optim_wrapper={'optimizer': {'type': 'AdamW', 'lr': 0.1}},
        param_scheduler=[
            {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'end': 2},
            {'type': 'MultiStepLR', 'milestones': [1]},
            {'type': 'CosineAnnealingLR', 'T_max': 2},
        ],
        custom_hooks=[{'type': 'EMAHook'}],
        experiment_name=name,
        log_level='WARNING',
        **options,
    )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A work directory with the checkpoint of a short run, with everything mmengine puts into one."""
    work_dir = tmp_path_factory.mktemp('trained')
    run = runner(work_dir)
    run.message_hub.update_info('best_score', np.float64(0.5))
    run.message_hub.update_info('per_class', np.arange(3, dtype=np.int64))
    run.train()
    return work_dir


def test_a_checkpoint_of_mmengine_is_read_completely(trained):
    content = read(trained / 'epoch_1.pth')
    reference = torch.load(trained / 'epoch_1.pth', weights_only=False)
    assert (
        content.keys() == reference.keys() >= {'optimizer', 'param_schedulers', 'message_hub', 'meta', 'ema_state_dict'}
    )
    assert content['meta'] == reference['meta']
    assert content['param_schedulers'] == reference['param_schedulers']
    assert same(content['state_dict'], reference['state_dict'])
    info = content['message_hub']['runtime_info']
    assert (info['best_score'], info['per_class'].tolist()) == (0.5, [0, 1, 2])
    for name, history in reference['message_hub']['log_scalars'].items():
        ours = content['message_hub']['log_scalars'][name]
        assert np.array_equal(ours._log_history, history._log_history)
        assert ours.statistics('mean') == history.mean()


@pytest.mark.usefixtures('safe_loading')
def test_mmengine_resumes_through_the_safe_reader(trained):
    run = runner(trained, epochs=2, load_from=str(trained / 'epoch_1.pth'), resume=True)
    run.train()
    assert (run.epoch, run.iter) == (2, 4)
    again = read(trained / 'epoch_2.pth')  # what was read safely can be saved and read again
    assert len(again['message_hub']['log_scalars']['train/loss']._log_history) == 4


@pytest.mark.usefixtures('safe_loading')
@pytest.mark.parametrize('resume', [False, True], ids=['load_from', 'resume'])
def test_loading_and_resuming_run_nothing(tmp_path, resume):
    path, ran = write_malicious(tmp_path)
    run = runner(tmp_path, load_from=str(path), resume=resume)
    before = copied(run.model)
    with pytest.raises(CheckpointError, match='nothing in it was executed'):
        run.train()
    assert not ran.exists()
    assert same(run.model.state_dict(), before)


@pytest.mark.usefixtures('safe_loading')
def test_a_config_inside_a_checkpoint_is_not_executed_on_resume(trained, tmp_path):
    content, ran = read(trained / 'epoch_1.pth'), tmp_path / 'ran'
    content['meta']['config'] = f'import pathlib\npathlib.Path({str(ran)!r}).touch()'
    torch.save(content, tmp_path / 'a.pth')
    Config.fromstring(content['meta']['config'], '.py')  # what mmengine's resume does with such a text
    assert ran.exists()
    ran.unlink()
    run = runner(tmp_path, epochs=2, load_from=str(tmp_path / 'a.pth'), resume=True)
    run.train()
    assert run.epoch == 2
    assert not ran.exists()
    assert 'pathlib' in read(tmp_path / 'a.pth')['meta']['config_text']


# --- downloads ---


@pytest.fixture
def server(tmp_path):
    """A web server over `tmp_path/web`: its address and the paths that were asked for."""
    folder, asked = tmp_path / 'web', []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as web:
        threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
        yield f'http://127.0.0.1:{web.server_port}', folder, asked
        web.shutdown()


def test_a_download_is_kept(server, cache_dir, tiny):
    address, folder, asked = server
    torch.save({'model': copied(tiny)}, folder / 'a.pth')
    for _ in range(2):
        assert same(read(f'{address}/a.pth')['model'], tiny.state_dict())
    assert asked == ['/a.pth']
    assert [path.name for path in cache_dir.iterdir()] == ['a.pth']


@pytest.mark.parametrize('content', [b'<html>404</html>', b'PK\x03\x04 cut short'])
def test_a_useless_download_is_not_kept(server, cache_dir, content):
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
def test_schemes_of_mmengine_resolve_to_safe_downloads(server, cache_dir, tiny, monkeypatch, source):
    address, folder, asked = server
    torch.save(copied(tiny), folder / 'net.pth')
    for function in ('get_torchvision_models', 'get_external_models'):
        monkeypatch.setattr(f'mmengine.runner.checkpoint.{function}', lambda: {'net': f'{address}/net.pth'})
    monkeypatch.setattr('mmengine.runner.checkpoint.get_deprecated_model_names', lambda: {'old': 'net'})
    assert same(CheckpointLoader.load_checkpoint(source), tiny.state_dict())
    assert asked == ['/net.pth']


@pytest.mark.parametrize(('rank', 'downloads'), [(0, 1), (1, 0)])
def test_only_the_first_rank_downloads(server, cache_dir, monkeypatch, rank, downloads):
    address, folder, asked = server
    torch.save({'a': torch.ones(1)}, folder / 'a.pth')
    reached = []

    def barrier():
        reached.append(len(asked))
        if rank:  # meanwhile the first one has it
            cache_dir.mkdir(parents=True)
            torch.save({'a': torch.ones(1)}, cache_dir / 'a.pth')

    monkeypatch.setattr(reading, 'get_dist_info', lambda: (rank, 2))
    monkeypatch.setattr(torch.distributed, 'barrier', barrier)
    read(f'{address}/a.pth')
    assert reached == [downloads]
    assert len(asked) == downloads


def test_a_failed_download_lets_the_other_ranks_go_on(server, cache_dir, monkeypatch):
    reached = []
    monkeypatch.setattr(reading, 'get_dist_info', lambda: (0, 2))
    monkeypatch.setattr(torch.distributed, 'barrier', lambda: reached.append(True))
    with pytest.raises(CheckpointError):
        read(f'{server[0]}/missing.pth')
    assert reached == [True]
