"""Nothing in a file is executed: by reading, by mmengine's initialisers, or by resuming."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, BaseModule
from mmengine.runner import CheckpointLoader, Runner
from torch import nn

from repvit_dense.backbones import RepViT
from repvit_dense.checkpoints.reading import CheckpointError, read


def same(a, b):
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)


def copied(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


class Call:
    """An object that calls a function when it is unpickled without restrictions."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


def write_malicious(folder, call='os.system', container='zip'):
    """Write a checkpoint that creates the file `folder/ran` when it is executed; return both paths."""
    ran, path = folder / 'ran', folder / 'malicious.pth'
    calls = {
        'os.system': Call(os.system, f'touch {ran}'),
        'exec': Call(exec, f'open({str(ran)!r}, "w")'),
        'open': Call(io.open, str(ran), 'w'),
        'touch': Call(Path.touch, ran),
    }
    content = {'state_dict': {'weight': torch.ones(1)}, 'meta': {'epoch': 1, 'iter': 1}, 'extra': calls[call]}
    if container == 'pickle':
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == 'zip')
    return path, ran


def test_unrestricted_unpickling_executes_the_malicious_file(tmp_path):
    path, ran = write_malicious(tmp_path)
    torch.load(path, weights_only=False)
    assert ran.exists()


@pytest.mark.parametrize('container', ['zip', 'legacy', 'pickle'])
@pytest.mark.parametrize('call', ['os.system', 'exec', 'open', 'touch'])
def test_reading_executes_nothing(tmp_path, monkeypatch, call, container):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')  # torch then ignores weights_only=None, but not True
    path, ran = write_malicious(tmp_path, call, container)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert not ran.exists()
    assert 'not trusted, and nothing in it was executed: it refers to' in str(caught.value)
    if container != 'pickle':  # there the loader of the tensors comes first and is refused
        assert {'os.system': 'posix.system', 'touch': 'pathlib'}.get(call, call) in str(caught.value)


@pytest.mark.parametrize(
    'content',
    [
        Call(getattr, HistoryBuffer, '__init__'),
        Call(getattr, np.ndarray, 'tofile'),
        Call(np.dtype, 'O8', False, True),
        Call(np.dtype, [('a', 'O')]),
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
        """A float64 whose pickled state claims that each element contains 1000 numbers."""

        def __reduce__(self):
            return np.dtype, ('f8', False, True), (3, '<', (np.dtype('f8'), (1000,)), None, None, -1, -1, 0)

    scalar = np.float64(0).__reduce__()[0]
    torch.save({'x': Call(scalar, Crafted(), bytes(8))}, tmp_path / 'a.pth')
    assert read(tmp_path / 'a.pth') == {'x': 0.0}


def test_init_cfg_executes_nothing(tmp_path, tiny_arch):
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


def runner_of(work_dir, epochs=1, **options):
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
    """Return a work dir with the checkpoint of a short run, with every entry that mmengine writes."""
    work_dir = tmp_path_factory.mktemp('trained')
    run = runner_of(work_dir)
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
    run = runner_of(trained, epochs=2, load_from=str(trained / 'epoch_1.pth'), resume=True)
    run.train()
    assert (run.epoch, run.iter) == (2, 4)
    again = read(trained / 'epoch_2.pth')  # a checkpoint that was read safely can be saved and read again
    assert len(again['message_hub']['log_scalars']['train/loss']._log_history) == 4


@pytest.mark.usefixtures('safe_loading')
@pytest.mark.parametrize('resume', [False, True], ids=['load_from', 'resume'])
def test_load_from_and_resume_execute_nothing(tmp_path, resume):
    path, ran = write_malicious(tmp_path)
    run = runner_of(tmp_path, load_from=str(path), resume=resume)
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
    Config.fromstring(content['meta']['config'], '.py')  # mmengine executes the text in this way when it resumes
    assert ran.exists()
    ran.unlink()
    run = runner_of(tmp_path, epochs=2, load_from=str(tmp_path / 'a.pth'), resume=True)
    run.train()
    assert run.epoch == 2
    assert not ran.exists()
    assert 'pathlib' in read(tmp_path / 'a.pth')['meta']['config_text']
