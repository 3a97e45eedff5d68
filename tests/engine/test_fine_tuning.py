"""A training that starts from the weights of another model."""

import logging

import pytest
import torch
from torch.nn import functional as F

from repvit_dense import config
from repvit_dense.checkpoints.reading import read
from repvit_dense.checkpoints.transfer import Classes, transfer
from repvit_dense.config.editing import set_class_counts
from repvit_dense.config.weights import class_layers
from repvit_dense.data import shapes
from repvit_dense.engine.runner import DenseRunner
from repvit_dense.model import build_model

WIDTHS = [8, 16, 24, 32]
HEAD = ('decode_head.conv_seg.weight', 'decode_head.conv_seg.bias')


def config_of(classes):
    """Return SegFormer on a tiny backbone."""
    cfg = config.load('repvit_segformer_shapes')
    cfg.model.backbone.arch = {'embed_dims': WIDTHS, 'depths': (1, 1, 1, 1)}
    cfg.model.decode_head.update(in_channels=WIDTHS, channels=32)
    set_class_counts(cfg.model, len(classes), len(classes))
    return cfg


@pytest.fixture
def runner(tmp_path):
    """Return `runner(classes, **changes)` for one iteration at a learning rate of 0."""
    root = shapes.generate(tmp_path / 'shapes', 0, 2, 1, (64, 64))

    def make(classes, **changes):
        cfg = config_of(classes)
        for split in ('train', 'val', 'test'):
            cfg[f'{split}_dataloader'].dataset.data_root = str(root)
            cfg[f'{split}_dataloader'].dataset.metainfo.classes = classes
        cfg.merge_from_dict(
            {
                'model.data_preprocessor.size': (64, 64),
                'work_dir': str(tmp_path / 'run'),
                'train_cfg.max_iters': 1,
                **dict.fromkeys(('val_cfg', 'val_dataloader', 'val_evaluator')),
                'default_hooks.checkpoint.save_best': None,
                'visualizer.vis_backends': [{'type': 'LocalVisBackend'}],
                'default_hooks.checkpoint.interval': 1,
                'train_dataloader.batch_size': 2,
                'optim_wrapper.optimizer.lr': 0.0,
                'randomness': {'seed': 0},
                'experiment_name': f'{tmp_path.name}_{len(changes)}',
                **changes,
            }
        )
        return DenseRunner.from_cfg(cfg)

    return make


def test_a_run_starts_from_weights_says_so_on_one_line_and_resumes(runner, tmp_path):
    """The averaged weights start from them too; a resumed training does not read them again."""
    old = shapes.THING_CLASSES + shapes.STUFF_CLASSES
    new = tuple(f'my {name}' for name in old)
    torch.manual_seed(1)
    state = build_model(config_of(old)).state_dict()
    file = tmp_path / 'old.pth'
    torch.save({'state_dict': state, 'meta': {'dataset_meta': {'classes': old}}}, file)
    start = runner(new, weights=str(file), custom_hooks=[{'type': 'EMAHook', 'begin_iter': 1}])
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage()) if getattr(record, 'screen', False) else None
    start.logger.addHandler(handler)
    start.train()
    (line,) = (line for line in lines if 'old.pth' in line and 'tensors' in line)
    assert line.endswith(f'from {file}; started anew because the classes differ: decode_head.conv_seg')
    saved = read(tmp_path / 'run' / 'iter_1.pth')
    for name, part in (('', saved['state_dict']), ('module.', saved['ema_state_dict'])):
        for key, value in start.model.named_parameters():
            assert torch.equal(part[name + key], value if key in HEAD else state[key])
    file.unlink()
    resumed = runner(
        new,
        weights=str(file),
        custom_hooks=[{'type': 'EMAHook', 'begin_iter': 1}],
        load_from=str(tmp_path / 'run' / 'iter_1.pth'),
        resume=True,
        **{'train_cfg.max_iters': 2},
    )
    resumed.train()
    assert resumed.iter == 2


# --- the use of it ---


def loss_of(model, seed, smallest):
    """Return the loss of naming the largest (or smallest) of three colours of each pixel."""
    colours = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    labels = (colours.argmin(1) if smallest else colours.argmax(1)).repeat_interleave(2, 1).repeat_interleave(2, 2)
    return F.cross_entropy(model.decode_head(model.extract_feat(F.interpolate(colours, scale_factor=8))), labels)


def trained(model, steps, smallest):
    optimizer = torch.optim.AdamW(model.train().parameters(), 0.01)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, step, smallest).backward()
        optimizer.step()
    with torch.no_grad():
        return sum(loss_of(model, seed, smallest).item() for seed in (100, 101)) / 2


def test_five_steps_from_weights_for_other_classes_beat_five_from_scratch():
    cfg = config_of('abc')
    losses = []
    source = build_model(cfg)
    source.init_weights()
    trained(source, 25, smallest=False)
    for start in (False, True):
        torch.manual_seed(0)
        model = build_model(cfg)
        model.init_weights()
        if start:
            transfer(model, source.state_dict(), 'x.pth', Classes('xyz', class_layers(cfg), 'abc'))
        losses.append(trained(model, 5, smallest=True))
    assert losses[1] < 0.8 * losses[0], losses
