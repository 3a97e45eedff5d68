"""The split that a test evaluates."""

import dataclasses

import pytest

from repvit_dense import config
from repvit_dense.config.splits import splits, use_split
from repvit_dense.errors import InputError

SHAPES = 'data/shapes/annotations'


@pytest.fixture(scope='module')
def loaded():
    names = ('repvit_maskrcnn_shapes', 'repvit_mask2former_shapes-panoptic', 'repvit_segformer_shapes')
    return {name: config.load(name) for name in names}


@pytest.fixture
def cfg(loaded):
    """Return `cfg(name)`, a config of its own."""
    return lambda name='repvit_maskrcnn_shapes': loaded[name].copy()


def test_training_images_are_tested_without_augmentation_and_filter(cfg):
    cfg = cfg()
    before = cfg.copy()
    assert use_split(cfg, 'train') == 'train'
    dataset = cfg.test_dataloader.dataset
    assert dataset.ann_file == before.train_dataloader.dataset.ann_file
    assert dataset.data_prefix == before.train_dataloader.dataset.data_prefix
    assert dataset.pipeline == before.val_dataloader.dataset.pipeline
    assert (dataset.test_mode, 'filter_cfg' in dataset) == (True, False)
    assert cfg.test_evaluator[0].ann_file == f'{SHAPES}/instances_train2017.json'
    assert not cfg.test_dataloader.sampler.shuffle
    for key in ('train_dataloader', 'val_dataloader', 'val_evaluator'):
        assert cfg[key] == before[key]


def test_panoptic_metrics_take_the_maps_too(cfg):
    cfg = cfg('repvit_mask2former_shapes-panoptic')
    use_split(cfg, 'train')
    (metric,) = cfg.test_evaluator
    folder = 'data/shapes-2000/annotations/panoptic_train2017'
    assert metric.ann_file == f'{folder}.json'
    assert metric.seg_prefix == f'{folder}/'


def test_a_metric_without_ground_truth_is_left_out_with_a_warning(cfg, capsys):
    cfg = cfg('repvit_mask2former_shapes-panoptic')
    cfg.val_evaluator = [cfg.val_evaluator, {'type': 'DenseCocoMetric', 'ann_file': 'instances_val2017.json'}]
    use_split(cfg, 'train')
    assert [metric.type for metric in cfg.test_evaluator] == ['DensePanopticMetric']
    assert 'DenseCocoMetric (instances_val2017.json) is left out' in capsys.readouterr().err


def test_wrapped_training_data_is_tested_once(cfg):
    cfg = cfg('repvit_segformer_shapes')
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = {'type': 'RepeatDataset', 'times': 5, 'dataset': inner}
    use_split(cfg, 'train')
    assert cfg.test_dataloader.dataset.data_prefix == inner.data_prefix
    cfg.train_dataloader.dataset = {'type': 'ConcatDataset', 'datasets': [inner, inner]}
    use_split(cfg, 'train')
    assert len(cfg.test_dataloader.dataset.datasets) == 2


def test_several_data_sets_and_one_annotation_file(cfg):
    cfg = cfg()
    cfg.train_dataloader.dataset = {'type': 'ConcatDataset', 'datasets': [cfg.train_dataloader.dataset] * 2}
    with pytest.raises(InputError, match=r'are 2 data sets, but DenseCocoMetric reads one file'):
        use_split(cfg, 'train')


def test_the_validation_data_is_no_test_split(cfg):
    cfg = cfg()
    assert splits(cfg) == ['train', 'val']
    assert use_split(cfg) == 'val'
    with pytest.raises(
        InputError,
        match=r'--split test: the data has no such split with labels; it has train, val$',
    ):
        use_split(cfg, 'test')
    cfg.train_dataloader = None
    with pytest.raises(InputError, match=r'--split train: the data has no such split with labels; it has val$'):
        use_split(cfg, 'train')


def test_a_test_split_of_its_own(cfg):
    cfg = cfg()
    cfg.test_dataloader.dataset.ann_file = 'annotations/instances_test2017.json'
    cfg.test_evaluator.ann_file = f'{SHAPES}/instances_test2017.json'
    assert splits(cfg) == ['train', 'val', 'test']
    assert use_split(cfg, 'test') == 'test'
    assert cfg.test_evaluator.ann_file == f'{SHAPES}/instances_test2017.json'
    assert use_split(cfg) == 'val'  # a test split is scored on demand only
    assert cfg.test_evaluator == cfg.val_evaluator
    assert cfg.test_dataloader == cfg.val_dataloader


def test_the_test_split_of_a_folder(monkeypatch):
    from repvit_dense.data import layouts
    from repvit_dense.data.source import Source, metainfo

    train, val, test = ({'data_root': '/data', 'ann_file': f'/data/{split}.json'} for split in ('train', 'val', 'test'))
    files = {'instances': val['ann_file']}
    source = Source('CocoDataset', ('cat',), 1, train, val, metainfo(('cat',)), files)
    monkeypatch.setattr(layouts, 'find', lambda *arguments: source)
    without = config.load('repvit_maskrcnn_shapes')
    config.set_dataset(without, 'somewhere')
    assert splits(without) == ['train', 'val']
    source = dataclasses.replace(source, test=test, test_files={'instances': test['ann_file']})
    cfg = config.load('repvit_maskrcnn_shapes')
    config.set_dataset(cfg, 'somewhere')
    assert splits(cfg) == ['train', 'val', 'test']
    assert [cfg[f'{split}_dataloader'].dataset.ann_file for split in splits(cfg)] == [
        f'/data/{split}.json' for split in ('train', 'val', 'test')
    ]
    assert (cfg.val_evaluator.ann_file, cfg.test_evaluator.ann_file) == ('/data/val.json', '/data/test.json')
