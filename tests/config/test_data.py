"""`--data`: a config is pointed at other data, and everything that depends on it follows."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from repvit_dense import config
from repvit_dense.compat import panoptic_api
from repvit_dense.data import shapes, sources
from repvit_dense.errors import InputError

CONFIGS = sorted(path.stem for path in (Path(__file__).parents[2] / 'configs').glob('*.py'))
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


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A working directory whose `data/shapes` has three images."""
    monkeypatch.chdir(tmp_path)
    return shapes.generate('data/shapes', num_train=2, num_val=1, size=(64, 64))


@pytest.fixture
def panoptic():
    """`panopticapi` as a run provides it."""
    with panoptic_api.patched():
        yield


@pytest.fixture
def plain():
    """An mmdet config with a part of every kind that has classes."""
    loader = {
        'dataset': {
            'type': 'CocoDataset',
            'data_root': 'old/',
            'ann_file': 'old.json',
            'data_prefix': {'img': 'old'},
            'metainfo': {'classes': ('old',)},
            'filter_cfg': {'filter_empty_gt': True},
            'pipeline': [{'type': 'LoadAnnotations', 'with_bbox': True}, {'type': 'Resize', 'scale': (64, 64)}],
        },
        'batch_size': 2,
    }
    model = {
        'backbone': {'num_classes': 1000},
        'rpn_head': {'num_classes': 1},
        'roi_head': {'bbox_head': [{'num_classes': 80}, {'num_classes': 80}], 'mask_head': {'num_classes': 80}},
    }
    evaluator = {'type': 'CocoMetric', 'ann_file': 'old/old.json', 'metric': 'bbox'}
    parts = {f'{split}_dataloader': copy.deepcopy(loader) for split in ('train', 'val', 'test')}
    parts |= {f'{split}_evaluator': copy.deepcopy(evaluator) for split in ('val', 'test')}
    return Config({'model': model, 'default_scope': 'mmdet', **parts})


@pytest.fixture
def semantic():
    """An mmseg config."""
    dataset = {
        'type': 'ADE20KDataset',
        'data_root': 'old/',
        'data_prefix': {'img_path': 'a', 'seg_map_path': 'b'},
        'reduce_zero_label': True,
        'pipeline': [{'type': 'LoadAnnotations', 'reduce_zero_label': True}],
    }
    parts = {f'{split}_dataloader': {'dataset': copy.deepcopy(dataset)} for split in ('train', 'val', 'test')}
    model = {
        'type': 'EncoderDecoder',
        'decode_head': {'num_classes': 150, 'loss_decode': {'class_weight': [0.5] * 75 + [2] * 75}},
        'auxiliary_head': [{'num_classes': 150, 'loss_decode': [{'type': 'X', 'class_weight': [1.0] * 150}]}],
    }
    evaluator = {'type': 'IoUMetric', 'iou_metrics': ['mIoU']}
    tta = [{'type': 'TestTimeAug', 'transforms': [[{'type': 'LoadAnnotations', 'reduce_zero_label': True}]]}]
    return Config({'model': model, 'default_scope': 'mmseg', 'val_evaluator': evaluator, 'tta_pipeline': tta, **parts})


# --- tasks ---


@pytest.mark.parametrize('name, task', TASKS.items())
def test_what_labels_a_config_reads(name, task):
    assert config.task(config.load(name)) == task


def test_masks_are_seen_through_wrappers(plain):
    assert config.task(plain) == 'detection'
    load = {'type': 'LoadAnnotations', 'with_mask': True}
    plain.train_dataloader.dataset = {'type': 'X', 'dataset': {'pipeline': [{'type': 'Y', 'transforms': [load]}]}}
    assert config.task(plain) == 'instance'


# --- what follows the data ---


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_takes_the_embedded_data(name, drawn, panoptic):
    """It then passes every check, and its data sets can be read with the recipe's own pipeline."""
    from mmengine.registry import DATASETS, init_default_scope

    cfg = config.load(name)
    config.set_dataset(cfg, 'shapes')
    config.check(cfg, ('train', 'val', 'test'))
    init_default_scope(cfg.default_scope)
    for split, number in (('train', 2), ('val', 1)):
        arguments = cfg[f'{split}_dataloader'].dataset
        arguments.pop('filter_cfg', None)  # COCO's leaves out small images
        arguments.serialize_data = False  # takes half a second
        dataset = DATASETS.build(arguments)
        assert len(dataset) % number == 0
        assert len(dataset) >= number
        assert len(dataset.metainfo['classes']) == (12 if config.task(cfg) in ('panoptic', 'semantic') else 8)
        assert dataset[0]['inputs'].shape[0] == 3


@pytest.mark.parametrize(
    'name, data', [(c, d) for c in CONFIGS for d in sources.NAMES if d != 'shapes' and TASKS.get(c) in sources.NAMES[d]]
)
def test_names_set_every_class_count(name, data):
    cfg = config.load(name)
    config.set_dataset(cfg, data)
    source = sources.find(data, config.task(cfg), 'work')
    heads = [part for _, part in config.class_heads(cfg.model)]
    assert heads
    for part in heads:
        assert part.get('num_classes', source.things) == source.things
        assert part.get('num_stuff_classes', 0) == len(source.classes) - source.things
    assert 'embedded_data' not in cfg or cfg.embedded_data is None


def test_a_name_changes_nothing_in_a_config_that_already_has_the_data():
    cfg = config.load('repvit_mask2former_coco-panoptic')
    config.set_dataset(cfg, 'coco-panoptic')
    wanted = config.load('repvit_mask2former_coco-panoptic')
    cfg.pop('embedded_data')
    assert cfg.to_dict() == wanted.to_dict()


def test_the_recipe_stays(plain, drawn):
    before = copy.deepcopy(plain)
    config.set_dataset(plain, 'shapes')
    for split in ('train', 'val', 'test'):
        new, old = plain[f'{split}_dataloader'], before[f'{split}_dataloader']
        assert new.batch_size == old.batch_size
        assert (new.dataset.pipeline, new.dataset.filter_cfg) == (old.dataset.pipeline, old.dataset.filter_cfg)
    assert plain.val_evaluator.metric == 'bbox'


def test_what_says_which_data_is_replaced(plain, drawn):
    config.set_dataset(plain, 'shapes')
    for split, folder in (('train', 'train2017'), ('val', 'val2017'), ('test', 'val2017')):
        dataset = plain[f'{split}_dataloader'].dataset
        assert (dataset.data_root, dataset.data_prefix.img) == ('data/shapes/', f'{folder}/')
        assert dataset.ann_file == f'annotations/instances_{folder}.json'
        assert dataset.metainfo.classes == shapes.THING_CLASSES
        assert len(dataset.metainfo.palette) == 8
    assert (
        plain.val_evaluator.ann_file
        == plain.test_evaluator.ann_file
        == ('data/shapes/annotations/instances_val2017.json')
    )
    assert plain.embedded_data == sources.EMBEDDED


def test_class_counts_of_heads_and_of_nothing_else(plain, drawn):
    config.set_dataset(plain, 'shapes')
    assert [head.num_classes for head in plain.model.roi_head.bbox_head] == [8, 8]
    assert plain.model.roi_head.mask_head.num_classes == 8
    assert (plain.model.backbone.num_classes, plain.model.rpn_head.num_classes) == (1000, 1)


def test_embedded_data_of_the_config_keeps_its_arguments(plain):
    plain.embedded_data = {'root': 'data/shapes', 'num_train': 3}
    config.set_dataset(plain, 'shapes')
    assert plain.embedded_data.num_train == 3
    config.set_dataset(plain, 'coco')
    assert plain.embedded_data is None
    config.prepare_data(plain)  # draws nothing


def test_wrappers_stay(plain):
    leaf = plain.train_dataloader.dataset
    mixed = {'type': 'MultiImageMixDataset', 'dataset': copy.deepcopy(leaf), 'pipeline': [{'type': 'Mosaic'}]}
    concatenated = {'type': 'ConcatDataset', 'datasets': [mixed, copy.deepcopy(leaf)]}
    plain.train_dataloader.dataset = {'type': 'RepeatDataset', 'times': 3, 'dataset': concatenated}
    config.set_dataset(plain, 'coco')
    outer = plain.train_dataloader.dataset
    assert (outer.type, outer.times, 'data_root' in outer) == ('RepeatDataset', 3, False)
    [inner] = outer.dataset.datasets
    assert (inner.type, inner.pipeline[0].type) == ('MultiImageMixDataset', 'Mosaic')
    assert inner.dataset.data_root == 'data/coco/'
    assert inner.dataset.pipeline == leaf.pipeline


def test_class_weights_of_queries_keep_their_last():
    cfg = config.load('repvit_mask2former_coco-instance')
    config.set_dataset(cfg, 'shapes')
    head = cfg.model.panoptic_head
    assert head.loss_cls.class_weight == [1.0] * 8 + [0.1]
    assert (head.num_things_classes, head.num_stuff_classes) == (8, 0)
    assert (cfg.model.panoptic_fusion_head.num_things_classes, cfg.model.panoptic_fusion_head.num_stuff_classes) == (
        8,
        0,
    )


def test_masks_as_labels(semantic):
    config.set_dataset(semantic, 'cityscapes')
    dataset = semantic.train_dataloader.dataset
    assert dataset.data_prefix == {'img_path': 'leftImg8bit/train', 'seg_map_path': 'gtFine/train'}
    assert 'reduce_zero_label' not in dataset
    assert semantic.model.decode_head.num_classes == semantic.model.auxiliary_head[0].num_classes == 19
    assert semantic.val_evaluator == {'type': 'IoUMetric', 'iou_metrics': ['mIoU']}


def test_zero_is_ignored_where_the_data_set_says_so(semantic):
    """mmseg refuses a transform that says something else."""
    config.set_dataset(semantic, 'cityscapes')
    assert semantic.train_dataloader.dataset.pipeline == [{'type': 'LoadAnnotations'}]
    assert semantic.tta_pipeline[0].transforms[0] == [{'type': 'LoadAnnotations'}]


def test_weights_of_other_classes_are_dropped(semantic):
    config.set_dataset(semantic, 'cityscapes')
    assert 'class_weight' not in semantic.model.decode_head.loss_decode
    assert semantic.model.auxiliary_head[0].loss_decode == [{'type': 'X'}]


def test_a_metric_without_ground_truth_is_left_out(drawn):
    (drawn / 'annotations/instances_val2017.json').unlink()
    cfg = config.load('repvit_mask2former_coco-panoptic')
    assert [part.type for part in cfg.val_evaluator] == ['CocoPanopticMetric', 'DenseCocoMetric']
    config.set_dataset(cfg, str(drawn))
    [metric] = cfg.val_evaluator
    assert metric.ann_file == str(drawn.absolute() / 'annotations/panoptic_val2017.json')
    assert metric.seg_prefix == str(drawn.absolute() / 'annotations/panoptic_val2017')


def test_data_without_the_labels_leaves_the_config_alone(plain):
    before = plain.to_dict()
    with pytest.raises(InputError, match='--data ade20k suits semantic configs'):
        config.set_dataset(plain, 'ade20k')
    assert plain.to_dict() == before


# --- folders ---


def test_a_folder_and_its_notes(drawn, capsys):
    for split in ('train', 'val'):
        (drawn / f'annotations/panoptic_{split}2017.json').unlink()
    (drawn / 'annotations/instances_val2017.json').unlink()
    cfg = config.load('repvit_maskrcnn_shapes')
    cfg.work_dir = 'out'
    config.set_dataset(cfg, 'data/shapes')
    assert 'there is no val split, so 1 images are held out' in capsys.readouterr().err
    assert json.loads(Path('out/coco/val.json').read_text())['images']
    assert cfg.embedded_data is None
    config.check(cfg, ('train', 'val', 'test'))


def test_converted_annotations_have_a_folder_for_each_config_and_data(drawn):
    (drawn / 'annotations/instances_val2017.json').unlink()
    cfg = config.load('repvit_maskrcnn_shapes')
    config.set_dataset(cfg, 'data/shapes')
    assert Path('work_dirs/repvit_maskrcnn_shapes--shapes/coco/val.json').is_file()


@pytest.fixture
def masks(tmp_path):
    """`masks(value, ...)` is a config on a folder of masks with two classes, whose pixels all have this value."""

    def write(value, file='classes.txt', listed='road\ncar\n'):
        root = tmp_path / 'masks'
        for split in ('train', 'val'):
            for kind in ('images', 'masks'):
                (root / kind / split).mkdir(parents=True)
            Image.new('RGB', (10, 8)).save(root / f'images/{split}/a.jpg')
            Image.fromarray(np.full((8, 10), value, np.uint8)).save(root / f'masks/{split}/a.png')
        (root / file).write_text(listed)
        cfg = config.load('repvit_segformer_ade20k')
        config.set_dataset(cfg, str(root))
        return cfg

    return write


def test_a_folder_of_masks(masks):
    cfg = masks(1)
    assert cfg.model.decode_head.num_classes == 2
    config.check(cfg, ('train', 'val', 'test'))


@pytest.mark.parametrize('value, label', [(0, 255), (1, 0), (2, 1), (255, 255)])
def test_values_that_begin_at_one(masks, value, label):
    """As mmseg's own loader turns them into labels."""
    from mmengine.registry import DATASETS, init_default_scope

    cfg = masks(value, 'classes.json', '{"1": "road", "2": "car"}')
    config.check(cfg, ('train',))
    init_default_scope('mmseg')
    dataset = DATASETS.build({**cfg.val_dataloader.dataset, 'serialize_data': False})
    assert dataset[0]['data_samples'].gt_sem_seg.data.unique().tolist() == [label]


def test_masks_beyond_the_classes_are_refused(masks):
    with pytest.raises(InputError, match='masks: 1 masks have values over 1, the last of 2 classes'):
        config.check(masks(2), ('train',))


# --- checks ---


def test_semantic_data_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='images/training: not found.*--data PATH.*repvit_segformer_shapes.py'):
        config.check(config.load('repvit_segformer_ade20k'), ('train',))


@pytest.mark.parametrize('key, wanted', [('num_things_classes', 8), ('num_stuff_classes', 4)])
@pytest.mark.parametrize('head', ['panoptic_head', 'panoptic_fusion_head'])
def test_counts_of_things_and_stuff(drawn, head, key, wanted):
    cfg = config.load('repvit_mask2former_shapes-panoptic', data='shapes')
    cfg.model[head][key] = 80
    with pytest.raises(InputError, match=f'model.{head}.{key} = 80, but the data has {wanted} .*{key}={wanted}$'):
        config.check(cfg, ('train',))


def test_class_weights_of_another_number(drawn):
    cfg = config.load('repvit_mask2former_shapes-panoptic', data='shapes')
    cfg.model.panoptic_head.loss_cls.class_weight = [1.0] * 134
    with pytest.raises(InputError, match='class_weight has 134 numbers, but 13 are needed: the data has 12 classes'):
        config.check(cfg, ('train',))


def test_warnings_do_not_stop(drawn, capsys):
    file = drawn / 'annotations/instances_train2017.json'
    content = json.loads(file.read_text())
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] == 1]
    file.write_text(json.dumps(content))
    config.check(config.load('repvit_maskrcnn_shapes'), ('train',))
    assert capsys.readouterr().err == (
        'warning: data/shapes/annotations/instances_train2017.json: 1 of the 2 images have no object, or only crowds '
        '(000000000002.png)\n'
    )
