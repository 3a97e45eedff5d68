"""A config that does not fit its data is refused; the options in the message correct it."""

import json
import re

import numpy as np
import pytest
from mmengine.registry import MODELS
from PIL import Image

from repvit_dense import config
from repvit_dense.errors import InputError

CLASSES = ('cat', 'dog', 'cow')
OBJECT = {'bbox': [0, 0, 4, 4], 'area': 16, 'iscrowd': 0, 'segmentation': [[0, 0, 4, 0, 4, 4, 0, 4]]}
ANNOTATIONS, IMAGES = 'annotations/instances.json', 'images'


def write_coco(root, classes=CLASSES, images=4, **changes):
    """Write a COCO folder with images of 4x4 pixels and an object of each class in the last one."""
    (root / 'annotations').mkdir(parents=True)
    (root / IMAGES).mkdir()
    names = [f'{i}.jpg' for i in range(images)]
    for name in names:
        Image.new('L', (4, 4)).save(root / IMAGES / name)
    ids = range(1, len(classes) + 1)
    content = {
        'images': [{'id': i, 'file_name': name, 'height': 4, 'width': 4} for i, name in enumerate(names)],
        'annotations': [{**OBJECT, 'id': i, 'image_id': images - 1, 'category_id': 10 * i} for i in ids],
        'categories': [{'id': 10 * i, 'name': name} for i, name in zip(ids, classes, strict=True)],
    }
    (root / ANNOTATIONS).write_text(json.dumps({**content, **changes}))
    return root


def dataset(root, classes=CLASSES):
    return {
        'type': 'CocoDataset',
        'data_root': str(root),
        'ann_file': ANNOTATIONS,
        'data_prefix': {'img': IMAGES},
        'metainfo': {'classes': classes},
        'pipeline': [{'type': 'PackDetInputs'}],
    }


def detector(train, val=None, num_classes=3):
    cfg = config.load('repvit_maskrcnn_shapes')
    cfg.model.roi_head.bbox_head.num_classes = num_classes
    cfg.model.roi_head.mask_head.num_classes = num_classes
    cfg.train_dataloader.dataset = train
    cfg.val_dataloader.dataset = cfg.test_dataloader.dataset = val or train
    first = val or train
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = (
        f'{first["data_root"]}/{ANNOTATIONS}' if 'data_root' in first else ''
    )
    return cfg


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / 'coco')


@pytest.fixture
def cfg(root):
    return detector(dataset(root))


def refusal(cfg, splits=('train', 'val', 'test')):
    with pytest.raises(InputError) as refused:
        config.check(cfg, splits)
    message = str(refused.value)
    assert '\n' not in message
    return message


def apply(cfg, message):
    """Apply the `--cfg-options` of a message."""
    for option in re.search(r'--cfg-options (\S.*)$', message)[1].split():
        config.apply_option(cfg, option)


# --- data ---


def test_a_right_config_passes(cfg):
    config.check(cfg, ('train', 'val', 'test'))


def test_only_the_named_splits_are_checked(cfg, root):
    cfg.train_dataloader.dataset.ann_file = 'none.json'
    config.check(cfg, ('val', 'test'))
    assert 'none.json' in refusal(cfg, ('train',))


@pytest.mark.parametrize('key, value, missing', [('ann_file', 'a.json', 'a.json'), ('data_prefix', {'img': 'b'}, 'b')])
def test_missing_data(cfg, root, key, value, missing):
    cfg.train_dataloader.dataset[key] = value
    message = refusal(cfg)
    assert message.startswith(f'{root / missing}: not found')
    assert '--data PATH' in message


def test_missing_coco_is_said_with_its_address(cfg, root):
    cfg.train_dataloader.dataset.ann_file = 'instances_train2017.json'
    message = refusal(cfg)
    assert 'cocodataset.org' in message
    assert 'python tools/train.py configs/repvit_maskrcnn_shapes.py' in message


def test_missing_annotations_of_the_evaluator(cfg, root):
    cfg.val_evaluator = [{'type': 'CocoMetric', 'metric': 'segm', 'ann_file': str(root / 'none.json')}]
    message = refusal(cfg)
    assert message.startswith(f'{root / "none.json"}: no such annotation file (val_evaluator)')
    config.check(cfg, ('train', 'test'))


def test_annotations_that_are_not_json(cfg, root):
    (root / ANNOTATIONS).write_text('<annotation>')
    message = refusal(cfg)
    assert message.startswith(f'{root / ANNOTATIONS}: not valid JSON (')


@pytest.mark.parametrize(
    'content, lacking',
    [
        ([1], 'images, annotations, categories'),
        ({'images': [], 'annotations': []}, 'categories'),
        ({'images': {}, 'annotations': [], 'categories': []}, 'images'),
    ],
)
def test_json_that_is_not_coco(cfg, root, content, lacking):
    (root / ANNOTATIONS).write_text(json.dumps(content))
    assert refusal(cfg) == f'{root / ANNOTATIONS}: not COCO annotations, it lacks the lists {lacking}'


def test_missing_classes(cfg, root):
    classes = ['cat', 'fly', 'dog', 'bee', 'cow']
    cfg = detector(dataset(root, classes), num_classes=5)
    message = refusal(cfg)
    assert f'{root / ANNOTATIONS} has no class fly, bee; it has cat, dog, cow.' in message
    assert 'metainfo=dict(classes=' in message


def test_the_classes_of_coco_are_the_default(cfg, root):
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        del loader.dataset['metainfo']
    assert 'has no class person, bicycle, car, motorcycle, airplane, ...' in refusal(cfg)


def test_classes_in_another_order(root):
    message = refusal(detector(dataset(root, ('cat', 'cow', 'dog'))))
    assert f"{root / ANNOTATIONS} and the config order the classes differently (number 1: 'dog' in the file" in message
    assert "'cow' in the config" in message
    assert 'Use the order of the file' in message


def test_a_subset_of_the_classes_is_accepted(root):
    """mmdet drops the annotations of other classes."""
    config.check(detector(dataset(root, ('cat', 'cow')), num_classes=2), ('train',))


@pytest.mark.parametrize('gone, words', [(1, '1 of the 9 images'), (5, '5 of the 9 images')])
def test_missing_images(tmp_path, gone, words):
    root = write_coco(tmp_path / 'coco', images=9)
    for i in range(gone):
        (root / IMAGES / f'{i}.jpg').unlink()
    names = ', '.join(f'{i}.jpg' for i in range(gone))
    assert refusal(detector(dataset(root))) == (
        f'{root / ANNOTATIONS}: {words} that it lists are not in {root / IMAGES}; is the download complete? ({names})'
    )


def test_images_in_subfolders(tmp_path):
    root = write_coco(tmp_path / 'coco', images=1)
    (root / IMAGES / 'a').mkdir()
    (root / IMAGES / '0.jpg').rename(root / IMAGES / 'a/0.jpg')
    assert '1 of the 1 images' in refusal(detector(dataset(root)))
    text = (root / ANNOTATIONS).read_text().replace('0.jpg', 'a/0.jpg')
    (root / ANNOTATIONS).write_text(text)
    config.check(detector(dataset(root)), ('train',))


@pytest.mark.parametrize('wrapper', ['RepeatDataset', 'ConcatDataset', 'both'])
def test_wrapped_data_sets_are_checked(tmp_path, root, wrapper):
    bad = dataset(write_coco(tmp_path / 'bad', classes=('cat', 'cow', 'dog')))
    wrapped = {
        'RepeatDataset': {'type': 'RepeatDataset', 'times': 2, 'dataset': bad},
        'ConcatDataset': {'type': 'ConcatDataset', 'datasets': [dataset(root), bad]},
        'both': {
            'type': 'ClassBalancedDataset',
            'oversample_thr': 0.1,
            'dataset': {
                'type': 'ConcatDataset',
                'datasets': [dataset(root), {'type': 'RepeatDataset', 'times': 2, 'dataset': bad}],
            },
        },
    }[wrapper]
    assert str(tmp_path / 'bad') in refusal(detector(wrapped, val=dataset(root)))


def test_other_types_of_data_sets_are_not_checked(cfg):
    pipeline = [{'type': 'PackDetInputs'}]
    dataset = {'type': 'VOCDataset', 'data_root': 'nowhere', 'ann_file': 'none.txt', 'pipeline': pipeline}
    cfg.train_dataloader.dataset = dataset
    config.check(cfg, ('train',))


# --- model ---


@pytest.mark.parametrize('head', ['bbox_head', 'mask_head'])
def test_class_counts(cfg, root, head):
    cfg.model.roi_head[head].num_classes = 80
    message = refusal(cfg)
    assert message.startswith(
        f'model.roi_head.{head}.num_classes = 80, but the data has 3 classes ({root / ANNOTATIONS})'
    )
    apply(cfg, message)
    config.check(cfg, ('train', 'val', 'test'))


def test_class_counts_in_a_cascade(cfg):
    head = cfg.model.roi_head.bbox_head
    cfg.model.roi_head.bbox_head = [head, {**head, 'num_classes': 80}]
    message = refusal(cfg)
    assert message.startswith('model.roi_head.bbox_head.1.num_classes = 80')
    apply(cfg, message)
    config.check(cfg, ('train',))


def test_two_wrong_class_counts_are_reported_one_after_the_other(root):
    cfg = detector(dataset(root), num_classes=7)
    for _ in range(2):
        apply(cfg, refusal(cfg))
    config.check(cfg, ('train',))


def test_neck_channels(cfg):
    cfg.model.backbone.arch = 'm1_1'
    message = refusal(cfg)
    assert message.startswith('model.neck.in_channels = [40, 80, 160, 320], but the backbone gives [64, 128, 256, 512]')
    apply(cfg, message)
    assert cfg.model.neck.in_channels == [64, 128, 256, 512]
    config.check(cfg, ('train',))


def test_number_of_features(cfg):
    cfg.model.backbone.out_indices = (1, 2, 3)
    message = refusal(cfg)
    assert 'the backbone gives [80, 160, 320]' in message
    apply(cfg, message)
    config.check(cfg, ('train',))


def test_a_head_without_neck(cfg):
    del cfg.model['neck']
    assert 'model.rpn_head.in_channels = 64, but the backbone gives 320' in refusal(cfg)
    cfg.model.rpn_head.in_channels = 320
    cfg.model.bbox_head = {'type': 'X', 'in_channels': [1, 2], 'num_classes': 3}
    assert 'model.bbox_head.in_channels = [1, 2]' in refusal(cfg)


@pytest.mark.parametrize(
    'change, words',
    [
        ({'arch': 'm9_9'}, ["unknown arch 'm9_9'", 'm1_1']),
        ({'frozen_stage': 50}, ["RepViT has no such argument; did you mean 'frozen_stages'?"]),
        ({'type': 'RepVit'}, ["model.backbone.type = 'RepVit' is not registered; did you mean 'RepViT'?"]),
        ({'tap': 'middle'}, ["unknown tap 'middle'"]),
    ],
)
def test_wrong_backbone_arguments(cfg, change, words):
    cfg.model.backbone.update(change)
    message = refusal(cfg)
    assert message.startswith('model.backbone: cannot be built, ')
    assert all(word in message for word in words)


@pytest.mark.parametrize('type_', ['ResNet', 'SwinTransformer'])
def test_stock_backbones_pass(cfg, type_):
    """Swin reads tensor values while it is built, which meta tensors do not have."""
    cfg.model.backbone = {'type': type_, **({'depth': 18} if type_ == 'ResNet' else {'depths': (1, 1, 1, 1)})}
    config.check(cfg, ('train',))


def test_a_model_without_backbone_is_not_checked(cfg, monkeypatch):
    monkeypatch.setitem(MODELS.module_dict, 'DenseWrapper', lambda detector: MODELS.build(detector))
    cfg.model = {'type': 'DenseWrapper', 'detector': dict(cfg.model)}
    config.check(cfg, ('train',))


def test_a_check_loads_no_weights(cfg):
    cfg.model.backbone.init_cfg = {'type': 'Pretrained', 'checkpoint': 'no_such_file.pth'}
    config.check(cfg, ('train',))
    assert cfg.model.backbone.init_cfg.checkpoint == 'no_such_file.pth'


# --- masks and panoptic data ---


@pytest.fixture
def masks(tmp_path):
    """Return `masks(value, ...)`, a config for a folder of masks with two classes.

    All pixels of the first mask have this value, the second has both classes.
    """

    def write(value, file='classes.txt', content='road\ncar\n'):
        root = tmp_path / 'masks'
        for split in ('train', 'val'):
            for kind in ('images', 'masks'):
                (root / kind / split).mkdir(parents=True)
            both = np.full((8, 10), int(file.endswith('.json')), np.uint8)
            both[:4] += 1
            for name, pixels in (('a', np.full((8, 10), value, np.uint8)), ('b', both)):
                Image.new('RGB', (10, 8)).save(root / f'images/{split}/{name}.jpg')
                Image.fromarray(pixels).save(root / f'masks/{split}/{name}.png')
        (root / file).write_text(content)
        cfg = config.load('repvit_segformer_ade20k')
        config.set_dataset(cfg, str(root))
        return cfg

    return write


def test_a_folder_of_masks(masks):
    cfg = masks(1)
    assert cfg.model.decode_head.num_classes == 2
    config.check(cfg, ('train', 'val', 'test'))


@pytest.mark.parametrize('value, label', [(0, 255), (1, 0), (2, 1), (255, 255)])
def test_mask_values_that_begin_at_one(masks, value, label):
    """Compare with the labels of mmseg's loader."""
    from mmengine.registry import DATASETS, init_default_scope

    cfg = masks(value, 'classes.json', '{"1": "road", "2": "car"}')
    config.check(cfg, ('train',))
    init_default_scope('mmseg')
    dataset = DATASETS.build({**cfg.val_dataloader.dataset, 'serialize_data': False})
    assert dataset[0]['data_samples'].gt_sem_seg.data.unique().tolist() == [label]


@pytest.mark.parametrize('prefix', [5, {'img_path': 'images', 'seg_map_path': None}])
def test_a_place_that_is_no_text(masks, prefix):
    cfg = masks(1)
    cfg.train_dataloader.dataset.data_prefix = prefix
    with pytest.raises(InputError, match=r'train_dataloader\.dataset\.data_prefix.* must be'):
        config.check_data(cfg, ('train',))


def test_masks_beyond_the_classes_are_refused(masks):
    with pytest.raises(InputError, match='masks: 1 masks have values over 1, the last of 2 classes'):
        config.check(masks(2), ('train',))


def test_missing_semantic_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='images/training: not found.*--data PATH.*repvit_segformer_shapes.py'):
        config.check(config.load('repvit_segformer_ade20k'), ('train',))


@pytest.mark.parametrize('key, count', [('num_things_classes', 8), ('num_stuff_classes', 4)])
@pytest.mark.parametrize('head', ['panoptic_head', 'panoptic_fusion_head'])
def test_counts_of_things_and_stuff(drawn, head, key, count):
    cfg = config.load('repvit_mask2former_shapes-panoptic', data='shapes')
    cfg.model[head][key] = 80
    with pytest.raises(InputError, match=f'model.{head}.{key} = 80, but the data has {count} .*{key}={count}$'):
        config.check(cfg, ('train',))


def test_a_wrong_number_of_class_weights(drawn):
    cfg = config.load('repvit_mask2former_shapes-panoptic', data='shapes')
    cfg.model.panoptic_head.loss_cls.class_weight = [1.0] * 134
    with pytest.raises(InputError, match='class_weight has 134 numbers, but 13 are needed: the data has 12 classes'):
        config.check(cfg, ('train',))


def test_warnings_are_printed_and_refuse_nothing(drawn, capsys):
    file = drawn / 'annotations/instances_train2017.json'
    content = json.loads(file.read_text())
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] == 1]
    file.write_text(json.dumps(content))
    config.check(config.load('repvit_maskrcnn_shapes'), ('train',))
    assert capsys.readouterr().err.startswith(
        'warning: data/shapes/annotations/instances_train2017.json: 1 of the 2 images have no object, or only crowds '
        '(000000000002.png)\n'
    )
