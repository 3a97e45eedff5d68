"""A SegFormer trained by two processes on CPUs, which share a batch, equals one trained by one process."""

import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from repvit_dense.compat.distributed import CPUSyncBatchNorm, synchronize

ROOT = Path(__file__).parents[2]
PRELOAD = ['pytest', 'repvit_dense', 'mmdet.apis', 'matplotlib.pyplot', 'torch.utils.tensorboard']
ITERATIONS = 4
CONFIG = f"""
_base_ = ['{ROOT}/configs/repvit_segformer_shapes.py']
embedded_data = dict(root='shapes', num_train=10, num_val=3, size=(64, 64))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(data_root='shapes', pipeline=train_pipeline))
val_dataloader = dict(batch_size=1, dataset=dict(data_root='shapes'))
test_dataloader = val_dataloader
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch=dict(_delete_=True, embed_dims=(8, 16, 24, 32), depths=(1, 2, 1, 2))),
    # Class weights are normalised by their sum over the pixels of one process.
    decode_head=dict(in_channels=[8, 16, 24, 32], channels=16, loss_decode=dict(class_weight=None)),
)
train_cfg = dict(max_iters={ITERATIONS}, val_interval={ITERATIONS})
# Adam scales up rounding errors if a gradient is 0, such as that of a bias before a norm.
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
param_scheduler = []
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(vis_backends=vis_backends)
custom_hooks = [dict(type='DenseSaveOnSignalHook'), dict(type='WriteLosses')]
"""


def train(folder, processes, rank, port):
    """Train in a process started as `torchrun` does, with a hook that writes the losses of this process."""
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    from repvit_dense import cli

    @HOOKS.register_module()
    class WriteLosses(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            with Path(f'losses{processes}-{rank}').open('a') as file:
                print(outputs['loss'].item(), file=file)

    os.chdir(folder)
    os.dup2(os.open(f'output{processes}-{rank}', os.O_WRONLY | os.O_CREAT), 1)
    os.environ |= {'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': str(processes)}
    os.environ |= {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'OMP_NUM_THREADS': '1'}
    launcher = ['--launcher', 'pytorch'] if processes > 1 else []
    batch = f'train_dataloader.batch_size={4 // processes}'
    cli.main('train', ['config.py', '--work-dir', str(processes), '--seed', '0', *launcher, '--cfg-options', batch])


def start(folder, processes):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PRELOAD)
    code = 'import runpy; runpy.run_path(path)["train"](*arguments)'
    started = []
    for rank in range(processes):
        values = {'path': __file__, 'arguments': (str(folder), processes, rank, port)}
        started.append(context.Process(target=exec, args=(code, values)))
        started[-1].start()
    return started


@pytest.fixture(scope='module')
def trainings(tmp_path_factory):
    """Train with one and with two processes; return the folder of the work dirs `1` and `2`."""
    folder = tmp_path_factory.mktemp('distributed')
    (folder / 'config.py').write_text(CONFIG)
    for processes in (1, 2):
        started = start(folder, processes)
        for process in started:
            process.join()
        texts = [path.read_text() for path in sorted(folder.glob(f'output{processes}-*'))]
        assert [process.exitcode for process in started] == [0] * processes, '\n'.join(texts)
    return folder


def scores(work_dir):
    records = [json.loads(line) for line in next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    return [record['mIoU'] for record in records if 'mIoU' in record]


@pytest.mark.slow
@pytest.mark.timeout(900)  # up to two processes share the cores
def test_two_processes_learn_the_same_as_one(trainings):
    losses = {
        name: torch.tensor([float(line) for line in (trainings / f'losses{name}').read_text().split()])
        for name in ('1-0', '2-0', '2-1')
    }
    assert len(losses['1-0']) == ITERATIONS
    assert (losses['2-0'] - losses['2-1']).abs().min() > 1e-3  # each process sees different images
    torch.testing.assert_close((losses['2-0'] + losses['2-1']) / 2, losses['1-0'], rtol=0, atol=1e-5)

    one, two = (torch.load(trainings / f'{n}/iter_{ITERATIONS}.pth', weights_only=False)['state_dict'] for n in (1, 2))
    assert one.keys() == two.keys()
    differences = {key: (one[key] - two[key]).abs().max().item() for key in one}
    assert max(differences.values()) < 1e-5, max(differences.items(), key=lambda item: item[1])
    assert scores(trainings / '1') == pytest.approx(scores(trainings / '2'), abs=0.02)  # percent


# --- batch norms ---


class Norms(nn.Module):
    """A live norm, a frozen norm on running statistics, and a norm configured as SyncBN."""

    def __init__(self):
        super().__init__()
        self.live, self.frozen, self.sync = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.SyncBatchNorm(3)

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self


def test_live_norms_are_synchronised_and_frozen_ones_are_not():
    model = Norms()
    parameters = list(model.parameters())
    synchronize(model)
    synced = nn.SyncBatchNorm if torch.cuda.is_available() else CPUSyncBatchNorm
    assert [type(norm) for norm in (model.live, model.frozen, model.sync)] == [synced, nn.BatchNorm2d, synced]
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


@pytest.fixture
def group():
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize('training', [True, False])
def test_one_process_gives_the_results_of_a_batch_norm(group, training):
    expected = nn.BatchNorm2d(3).train(training)
    nn.init.normal_(expected.weight), nn.init.normal_(expected.bias)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(expected)
    synced.load_state_dict(expected.state_dict())
    synced.__class__ = CPUSyncBatchNorm
    expected.running_mean, expected.running_var = expected.running_mean.clone(), expected.running_var.clone()
    x, y = (torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True) for _ in range(2))
    weights = torch.randn(2, 3, 5, 4)
    out, wanted = synced(x), expected(y)
    torch.testing.assert_close(out, wanted)
    (out * weights).sum().backward(), (wanted * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(synced.running_mean, expected.running_mean)
    torch.testing.assert_close(synced.running_var, expected.running_var)


def test_activations_of_timm_norms_are_applied(group):
    model = nn.Sequential(BatchNormAct2d(3))
    x = torch.randn(2, 3, 5, 4)
    expected = model(x)
    synchronize(model)
    torch.testing.assert_close(model(x), expected)
