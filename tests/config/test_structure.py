"""The task of a config follows from its pipelines."""

import pytest

from repvit_dense import config

TASKS = {
    'repvit_maskrcnn_coco': 'instance',
    'repvit_maskrcnn_shapes': 'instance',
    'repvit_cascade-maskrcnn_coco': 'instance',
    'repvit_rtmdet-ins_coco': 'instance',
    'repvit_mask2former_coco-instance': 'instance',
    'repvit_mask2former_coco-panoptic': 'panoptic',
    'repvit_mask2former_shapes-panoptic': 'panoptic',
    'repvit_detr_coco': 'detection',
    'repvit_retinanet_coco': 'detection',
    'repvit_segformer_ade20k': 'semantic',
    'repvit_upernet_ade20k': 'semantic',
}


@pytest.mark.parametrize('name, task', TASKS.items())
def test_task_of_packaged_configs(name, task):
    assert config.task(config.load(name)) == task


def test_masks_are_recognised_inside_wrappers(plain):
    assert config.task(plain) == 'detection'
    load = {'type': 'LoadAnnotations', 'with_mask': True}
    plain.train_dataloader.dataset = {'type': 'X', 'dataset': {'pipeline': [{'type': 'Y', 'transforms': [load]}]}}
    assert config.task(plain) == 'instance'
