"""Values of semantic masks that are ignored in training and in scores: by the name of their class, or by an option."""

import numpy as np
import pytest
from PIL import Image

from repvit_dense import config
from repvit_dense.commands import doctor, test, train
from repvit_dense.commands.base import open_config
from repvit_dense.config.editing import ignore_value
from repvit_dense.config.structure import pipeline_steps
from repvit_dense.errors import InputError


@pytest.fixture
def masks(tmp_path):
    """Return a function that writes a data set whose masks have the values 0, 1, 2 and 7."""

    def write(classes):
        pixels = np.tile(np.array([[0, 1, 2, 7]], np.uint8), (4, 1))
        for split in ('train', 'val'):
            for kind, image in (('images', Image.new('RGB', (4, 4))), ('masks', Image.fromarray(pixels))):
                folder = tmp_path / 'data' / kind / split
                folder.mkdir(parents=True)
                image.save(folder / 'a.png')
        (tmp_path / 'data/classes.txt').write_text('\n'.join(classes))
        return str(tmp_path / 'data')

    return write


def loaders(cfg):
    return [step for step in pipeline_steps(cfg) if 'LoadAnnotations' in step.get('type', '')]


def labels(cfg, split):
    """Return the labels of the first row, as the data set of the config loads them."""
    from mmengine.registry import init_default_scope
    from mmseg.registry import DATASETS

    init_default_scope('mmseg')
    dataset = cfg[f'{split}_dataloader'].dataset
    steps = [step for step in dataset.pipeline if step['type'] in ('LoadImageFromFile', 'DenseLoadAnnotations')]
    return DATASETS.build({**dataset, 'pipeline': steps})[0]['gt_seg_map'][0].tolist()


def findings(cfg):
    return [str(finding) for _, _, report in config.data_reports(cfg, ('train', 'val')) for finding in report.findings]


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_a_name_and_the_option(masks, semantic, split):
    for part in ('train', 'val', 'test'):
        semantic[f'{part}_dataloader'].dataset.pipeline.insert(0, {'type': 'LoadImageFromFile'})
    config.set_dataset(semantic, masks(['road', 'void', 'car']))
    assert [step['type'] for step in loaders(semantic)] == ['DenseLoadAnnotations'] * 4
    assert labels(semantic, split) == [0, 255, 1, 7]
    ignore_value(semantic, 7)
    assert labels(semantic, split) == [0, 255, 1, 255]
    assert semantic.model.decode_head.num_classes == 2


@pytest.mark.parametrize('command', [doctor, test, train])
def test_the_option_of_the_commands(masks, command, tmp_path):
    data = masks(['road', 'car', 'sky'])
    cfg = open_config(command.Options('repvit_segformer_shapes', data=data, ignore_index=7), tmp_path / 'work')
    assert [step['label_map'] for step in loaders(cfg)] == [[[7, 255]]] * 3
    assert findings(cfg) == []


def test_the_checks_know_both(masks, semantic):
    config.set_dataset(semantic, masks(['road', 'void', 'car']))
    assert [finding.split(' (')[0] for finding in findings(semantic)] == [
        '1 masks have values over 2, the last of 2 classes; if one value stands for pixels without a class, name it: '
        '--ignore-index N'
    ] * 2
    ignore_value(semantic, 7)
    assert findings(semantic) == []
    ignore_value(semantic, 2)
    assert 'because their value is ignored (car)' in findings(semantic)[0]


def test_another_data_set_has_no_label_map(masks, semantic):
    before = [dict(step) for step in loaders(semantic)]
    config.set_dataset(semantic, masks(['road', 'void', 'car']))
    config.set_dataset(semantic, 'cityscapes')
    assert [step['type'] for step in loaders(semantic)] == [step['type'] for step in before]
    assert not any('label_map' in step for step in loaders(semantic))


def test_the_config_of_a_work_dir_keeps_the_label_map(masks, semantic, tmp_path):
    config.set_dataset(semantic, masks(['road', 'void', 'car']))
    semantic.dump(tmp_path / 'semantic.py')
    cfg = config.load(str(tmp_path))
    assert loaders(cfg) == loaders(semantic)


def test_only_semantic_configs_have_values(plain):
    with pytest.raises(InputError, match='--ignore-index 7: only masks with semantic labels'):
        ignore_value(plain, 7)
