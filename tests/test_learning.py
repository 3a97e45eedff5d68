"""Configs for the embedded data set learn from random weights. Each training takes ten minutes on a CPU core.

`make test-learning` runs these tests; docs/configs.md has the scores of complete trainings.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Config -> its metric and the minimum score, slightly below the measured one: the number of threads and the processor
# change the rounding, and so the end of a training from scratch.
MINIMUM = {
    'repvit_segformer_shapes': ('mIoU', 78.0),
    'repvit_semfpn_shapes': ('mIoU', 64.0),
    'repvit_mask2former_shapes-panoptic': ('coco_panoptic/PQ', 33.0),
}
pytestmark = [pytest.mark.learning, pytest.mark.timeout(3600)]


@pytest.mark.parametrize('name', MINIMUM)
def test_training_reaches_the_minimum_score(name, tmp_path):
    command = [sys.executable, 'tools/train.py', f'configs/{name}.py', '--work-dir', tmp_path, '--seed', '0']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    metric, minimum = MINIMUM[name]
    (log,) = tmp_path.glob('*/vis_data/scalars.json')
    scores = [line[metric] for line in map(json.loads, log.read_text().splitlines()) if metric in line]
    assert max(scores) >= minimum


CLASSES = ("('circle','square','triangle','star')", "('ring','cross','heart','crescent')")


def test_fine_tuning_on_other_classes_beats_a_start_from_scratch(tmp_path):
    """One epoch from weights of a training on other shapes, and one from scratch."""

    def train(name, classes, epochs, *more):
        options = [f'{split}_dataloader.dataset.metainfo.classes={classes}' for split in ('train', 'val', 'test')]
        options += [f'model.roi_head.{head}.num_classes=4' for head in ('bbox_head', 'mask_head')]
        command = [sys.executable, 'tools/train.py', 'repvit_maskrcnn_shapes', '--work-dir', tmp_path / name]
        command += ['--epochs', str(epochs), '--seed', '0', *more, '--cfg-options', *options]
        environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        (log,) = (tmp_path / name).glob('*/vis_data/scalars.json')
        lines = map(json.loads, log.read_text().splitlines())
        return [line['coco/bbox_mAP'] for line in lines if 'coco/bbox_mAP' in line][-1]

    train('source', CLASSES[0], 2)
    scratch = train('scratch', CLASSES[1], 1)
    assert train('tuned', CLASSES[1], 1, '--from', tmp_path / 'source') > scratch + 0.05
