"""Train every head on every backbone for two steps, predict and score, on small drawn images.

`python tests/test_matrix.py [--configs NAME ...] [--backbones NAME ...]` runs the whole matrix, which takes long, and
prints one line per cell. The tests run two columns (RepViT and a peer with attention) and some cells of the two
families without published weights; `make test-learning` adds a convolutional peer, and one head on each of `FAMILIES`.
"""

import argparse
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, product
from pathlib import Path

import numpy as np
import pytest
import torch

from repvit_dense import catalogue, config
from repvit_dense.compat import panoptic_api
from repvit_dense.data import shapes

CONFIGS = sorted(file.stem for file in config.CONFIG_FOLDERS[0].glob('repvit_*.py'))
COLUMNS = ('repvit_m0_6', 'mobilevit_xxs')
MORE_CELLS = [
    ('repvit_retinanet_coco', 'edgevit_xxs'),
    ('repvit_semfpn_ade20k', 'edgevit_xxs'),
    ('repvit_semfpn_ade20k', 'mobile_former_26m'),
    ('repvit_detr_coco', 'mobile_former_26m'),
    ('mobile-former_retinanet_coco', 'mobile_former_294m'),
]
FAMILIES = (
    *('mobilenetv4_hybrid_medium', 'ghostnetv3_100', 'repghostnet_050', 'fasternet_t0', 'starnet_s1', 'hgnetv2_b0'),
    *('convnext_atto', 'inception_next_atto', 'swiftformer_xs', 'efficientvit_b0', 'edgenext_small'),
)
CELLS = [
    *product(CONFIGS, COLUMNS),
    *(pytest.param(name, 'mobilenetv2', marks=pytest.mark.learning) for name in CONFIGS),
    *(pytest.param(*cell, marks=pytest.mark.learning) for cell in zip(cycle(CONFIGS), FAMILIES, strict=False)),
    *MORE_CELLS,
]
TRAIN = Path(__file__).parents[1] / 'tools' / 'train.py'
IMAGE = 96  # side of the drawn images, in pixels
# Smaller numbers that save time.
THIN = {
    'fc_out_channels': 32,
    'num_layers': 2,
    'num': 32,
    'nms_pre': 100,
    'max_per_img': 20,
    'num_points': 256,
    'num_queries': 20,
}
# Thresholds at which even an untrained network predicts.
KEEP_ALL = {'score_thr': 0, 'object_mask_thr': 0}
LENGTHS = ('scale', 'scales', 'img_scale', 'crop_size', 'size', 'stride', 'max_size')  # of images, in pixels


def draw(folder: Path) -> None:
    """Draw a small embedded data set below `folder`, at the path that `--data shapes` reads."""
    shapes.generate(folder / 'data' / 'shapes', 0, 6, 2, (IMAGE, IMAGE))


def run_cell(name: str, backbone: str) -> dict[str, float]:
    """Take two training steps, predict, and return the scores. `draw` has filled the working directory.

    Raises:
        AssertionError: the gradient of a parameter is missing or not finite.
    """
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    cfg = config.load(name, ['model.backbone.init_cfg=None'], backbone=backbone, data='shapes')
    _make_small(cfg)
    registry = _registry(cfg.default_scope)
    config.check_channels(cfg)
    model = registry.MODELS.build(cfg.model)
    model.init_weights()
    with panoptic_api.patched():
        _train(model.train(), registry.DATASETS.build(cfg.train_dataloader.dataset), cfg.optim_wrapper)
        return _score(model.eval(), registry.DATASETS.build(cfg.val_dataloader.dataset), cfg.val_evaluator)


def _registry(scope: str):
    from importlib import import_module

    from mmengine.registry import init_default_scope

    for library in ('mmdet', 'mmseg'):
        for part in ('datasets', 'engine', 'evaluation', 'models', 'visualization'):  # registers their classes
            import_module(f'{library}.{part}')
    init_default_scope(scope)
    return import_module(f'{scope}.registry')


def _make_small(cfg) -> None:
    trained = cfg.model.data_preprocessor.get('size')
    divisors = {'ssdlite': 1, 'shapes': 2, 'mask2former': 16}
    by = trained[0] // 64 if trained else next((n for key, n in divisors.items() if key in cfg.filename), 8)
    parts = [cfg.train_dataloader, cfg.val_dataloader, cfg.model.data_preprocessor, cfg.custom_hooks]
    parts += [cfg.model.test_cfg] if cfg.default_scope == 'mmseg' else []
    for part in {id(part): part for part in _dicts(parts)}.values():
        part.update({key: _divided(part[key], by) for key in LENGTHS if key in part})
    for part in _dicts(cfg.model):
        part.update({key: value for key, value in (THIN | KEEP_ALL).items() if key in part})


def _dicts(content) -> Iterator[dict]:
    if isinstance(content, dict):
        yield content
        content = content.values()
    elif not isinstance(content, list | tuple):
        return
    for value in content:
        yield from _dicts(value)


def _divided(value, by: int):
    return value // by if isinstance(value, int) else type(value)(_divided(part, by) for part in value)


def _train(model, dataset, optim_cfg) -> None:
    from mmengine.optim import build_optim_wrapper

    optim = build_optim_wrapper(model, optim_cfg)
    samples = [dataset[i % len(dataset)] for i in range(8)][-4:]  # the first four fill the caches of mosaic and mixup
    for batch in (_collate(samples[:2]), _collate(samples[2:])):
        loss, _ = model.parse_losses(model(**model.data_preprocessor(batch, training=True), mode='loss'))
        optim.backward(loss)
        gradients = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
        bad = [key for key, grad in gradients.items() if grad is None or not grad.isfinite().all()]
        assert not bad, f'no finite gradient: {", ".join(bad[:5])} ({len(bad)} of {len(gradients)})'
        optim.step()
        optim.zero_grad()


def _score(model, dataset, evaluators) -> dict[str, float]:
    from mmengine.evaluator import Evaluator

    evaluator = Evaluator(evaluators)
    evaluator.dataset_meta = dataset.metainfo
    batch = _collate([dataset[i] for i in range(2)])
    with torch.no_grad():
        evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
    return evaluator.evaluate(2)


def _collate(samples: list[dict]) -> dict:
    return {key: [sample[key] for sample in samples] for key in samples[0]}


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp('matrix')
    draw(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'backbone'), CELLS)
def test_a_head_on_a_backbone_trains_and_is_scored(name, backbone, drawn, monkeypatch):
    monkeypatch.chdir(drawn)
    scores = run_cell(name, backbone)
    assert any(key.endswith(('bbox_mAP', 'mIoU', 'PQ')) for key in scores)


@pytest.mark.learning
@pytest.mark.parametrize('name', config.names())
def test_a_config_trains_in_two_processes(name, drawn, tmp_path):
    """Start them as `torchrun` does; train two iterations with two images each, validate, save."""
    cfg = config.load(name, ['model.backbone.init_cfg=None'], data='shapes')
    _make_small(cfg)
    cfg.train_dataloader.batch_size = 2
    cfg.embedded_data.update(num_train=6, num_val=2, size=(IMAGE, IMAGE))
    epochs = 'max_epochs' in cfg.train_cfg
    cfg.train_cfg.update({'max_epochs': 1} if epochs else {'max_iters': 2, 'val_interval': 2})
    cfg.dump(tmp_path / 'small.py')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', TRAIN]
    options = [tmp_path / 'small.py', '--launcher', 'pytorch', '--work-dir', tmp_path, '--checkpoint-every', '1']
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    ran = subprocess.run([*command, *options], cwd=drawn, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert list(tmp_path.glob('*_[12].pth'))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--configs', nargs='+', default=CONFIGS)
    parser.add_argument('--backbones', nargs='+', default=list(catalogue.BACKBONES))
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # mmengine logs the initialisation of every parameter
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder))
        os.chdir(folder)
        for name in args.configs:
            for backbone in args.backbones:
                start = time.monotonic()
                try:
                    run_cell(name, backbone)
                    outcome = 'ok'
                except Exception as error:  # the remaining cells are still run
                    outcome, failed = f'FAILED: {type(error).__name__}: {error}'[:300], failed + 1
                print(f'{name:36} {backbone:22} {time.monotonic() - start:5.1f} s  {outcome}', flush=True)
    print(f'{len(args.configs) * len(args.backbones)} cells tried, {failed} failed')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
