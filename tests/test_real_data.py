"""Train twenty iterations and evaluate on photographs, if a hundred images of COCO are in `data/coco100`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (ROOT / 'data' / 'coco100', ROOT.parent / 'shared' / 'data' / 'coco100')
DATA = next((folder for folder in FOLDERS if folder.is_dir()), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(DATA is None, reason='data/coco100, a part of COCO 2017, does not exist'),
]
# To save time: few validation images, random weights, and no worker processes.
LOADERS = [
    'model.backbone.init_cfg=None',
    'val_dataloader.dataset.indices=8',
    *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val')),
    *(f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val')),
]
ITERATIONS = ['train_cfg.max_iters=20', 'train_cfg.val_interval=20', 'train_dataloader.batch_size=2']
INSTANCE = [
    *('train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=40', 'train_dataloader.batch_size=2'),
    *('train_dataloader.dataset.pipeline.2.scale=(224,160)', 'val_dataloader.dataset.pipeline.1.scale=(224,160)'),
    *('model.test_cfg.rpn.max_per_img=50', 'model.train_cfg.rpn_proposal.max_per_img=50'),
    # The scores of an untrained detector are low, but the evaluation needs some detections.
    *('model.train_cfg.rcnn.sampler.num=32', 'model.test_cfg.rcnn.score_thr=0', 'model.test_cfg.rcnn.max_per_img=10'),
]
PANOPTIC = [
    *ITERATIONS,
    'model.data_preprocessor.batch_augments.0.size=(128,128)',
    *('train_dataloader.dataset.pipeline.3.scale=(128,128)', 'train_dataloader.dataset.pipeline.4.crop_size=(128,128)'),
    *('val_dataloader.dataset.pipeline.1.scale=(160,128)', 'model.train_cfg.num_points=256'),
    'model.panoptic_head.transformer_decoder.num_layers=3',
]
SEMANTIC = [
    *(*ITERATIONS, 'model.data_preprocessor.size=(128,128)', 'train_dataloader.dataset.pipeline.2.scale=(512,128)'),
    *('train_dataloader.dataset.pipeline.3.crop_size=(128,128)', 'val_dataloader.dataset.pipeline.1.scale=(512,128)'),
]


def train(name: str, data: Path, options: list[str], work_dir: Path) -> list[dict]:
    """Run `tools/train.py`; return the lines of its log, each with losses or with scores."""
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'train.py', ROOT / 'configs' / f'{name}.py', '--data', data]
        + ['--backbone', 'repvit_m0_6', '--work-dir', work_dir, '--seed', '0', '--cfg-options', *LOADERS, *options],
        capture_output=True,
        text=True,
        env={**os.environ, 'TQDM_DISABLE': '1'},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in log.read_text().splitlines()]


def check(lines: list[dict], score: str) -> None:
    """Check that all losses are in range and that the evaluation has logged this score."""
    losses = [line['loss'] for line in lines if 'loss' in line]
    assert losses and all(0 < loss < 1e4 for loss in losses)
    assert any(score in line for line in lines)


def test_mask_rcnn(tmp_path):
    lines = train('repvit_maskrcnn_coco', DATA, ['default_hooks.logger.interval=5', *INSTANCE], tmp_path)
    check(lines, 'coco/segm_mAP')


def test_mask2former_panoptic(tmp_path):
    lines = train('repvit_mask2former_coco-panoptic', DATA, ['default_hooks.logger.interval=5', *PANOPTIC], tmp_path)
    check(lines, 'coco_panoptic/PQ')


@pytest.fixture
def label_maps(tmp_path):
    """Return a folder with links to the same images and their semantic masks, and the class names."""
    root = tmp_path / 'data'
    for kind, source in (('images', '{}2017'), ('annotations', 'annotations/semantic_{}2017')):
        (root / kind).mkdir(parents=True)
        for split in ('train', 'val'):
            (root / kind / split).symlink_to((DATA / source.format(split)).resolve())
    categories = json.loads((DATA / 'annotations' / 'panoptic_val2017.json').read_text())['categories']
    (root / 'classes.txt').write_text(''.join(f'{category["name"]}\n' for category in categories))
    return root


def test_segformer(label_maps, tmp_path):
    lines = train(
        'repvit_segformer_ade20k', label_maps, ['default_hooks.logger.interval=5', *SEMANTIC], tmp_path / 'run'
    )
    check(lines, 'mIoU')
