from pathlib import Path

import pytest

from repvit_dense.data import layouts
from repvit_dense.data.source import TASKS

BASES = Path(__file__).parents[3] / 'configs/_base_/datasets'


@pytest.mark.parametrize(
    'base, name, task',
    [
        ('coco_instance', 'coco', 'instance'),
        ('shapes_instance', 'shapes', 'instance'),
        ('shapes_semantic', 'shapes', 'semantic'),
        ('coco_panoptic_lsj', 'coco-panoptic', 'panoptic'),
        ('shapes_panoptic', 'shapes', 'panoptic'),
        ('ade20k', 'ade20k', 'semantic'),
        ('cityscapes', 'cityscapes', 'semantic'),
        ('voc', 'voc', 'semantic'),
    ],
)
def test_a_name_gives_the_data_of_the_configs_with_that_name(base, name, task):
    from mmengine.config import Config

    cfg, source = Config.fromfile(BASES / f'{base}.py'), layouts.find(name, task, 'work')
    assert cfg.get('embedded_data') == source.embedded
    for loader, arguments in ((cfg.train_dataloader, source.train), (cfg.val_dataloader, source.val)):
        dataset = loader.dataset
        in_config = {key: dataset[key] for key in dataset if key in {*arguments, 'ann_file', 'img_suffix'}}
        assert (dataset.type, in_config) == (source.type, arguments)
        if source.metainfo:
            assert tuple(dataset.metainfo.classes) == source.classes


@pytest.mark.parametrize('name, task', [(name, task) for name, tasks in layouts.NAMES.items() for task in tasks])
def test_number_of_classes(name, task):
    source = layouts.find(name, task, 'work')
    number = {'coco': 80, 'coco-panoptic': 133, 'ade20k': 150, 'cityscapes': 19, 'voc': 21}.get(name)
    assert len(source.classes) == (number or (12 if task in ('panoptic', 'semantic') else 8))
    things = {'coco-panoptic': 80, 'shapes': 8}.get(name if task == 'panoptic' else '', len(source.classes))
    assert source.things == things


def test_every_task_has_a_data_set_that_needs_no_download():
    assert set(layouts.NAMES['shapes']) == set(TASKS)
