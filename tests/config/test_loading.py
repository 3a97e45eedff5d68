"""Configs are found, changed and refused; every refusal says what is wrong, where, and what to do about it."""

import json
import re

import pytest
from mmengine.config import Config

from repvit_dense import config
from repvit_dense.data import shapes
from repvit_dense.errors import InputError

CLASSES = ('cat', 'dog', 'cow')
ANNOTATIONS, IMAGES = 'annotations/instances.json', 'images'


def write_coco(root, classes=CLASSES, images=4, **changes):
    """A COCO folder of empty image files, which nobody decodes here."""
    (root / 'annotations').mkdir(parents=True)
    (root / IMAGES).mkdir()
    names = [f'{i}.jpg' for i in range(images)]
    for name in names:
        (root / IMAGES / name).touch()
    content = {
        'images': [{'id': i, 'file_name': name, 'height': 4, 'width': 4} for i, name in enumerate(names)],
        'annotations': [],
        'categories': [{'id': 10 * i, 'name': name} for i, name in enumerate(classes, start=1)],
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
    """What the `--cfg-options` in a message do."""
    for option in re.search(r'--cfg-options (\S.*)$', message)[1].split():
        config.apply_option(cfg, option)


# --- finding and loading ---


@pytest.mark.parametrize('name', ['repvit_maskrcnn_coco', 'repvit_maskrcnn_coco.py', 'configs/repvit_maskrcnn_coco.py'])
def test_packaged_configs_are_found_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.find(name).name == 'repvit_maskrcnn_coco.py'
    assert config.load(name).model.backbone.arch == 'm1_1'


def test_a_file_of_ones_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'repvit_maskrcnn_coco.py').write_text('answer = 42')
    assert config.load('repvit_maskrcnn_coco.py').answer == 42
    assert config.load(tmp_path / 'repvit_maskrcnn_coco.py').answer == 42


@pytest.mark.parametrize('name', ['repvit_maskrcnn_coc', 'no/such/repvit_maskrcnn_coco.py', 'configs', ''])
def test_an_unknown_name_lists_the_known(name):
    """A mistyped folder is not answered with the packaged config of the same name."""
    with pytest.raises(
        InputError, match='no such config file. Packaged ones: .*repvit_maskrcnn_coco, repvit_maskrcnn_sh'
    ):
        config.find(name)


@pytest.mark.parametrize('text', ['model = dict(', '1 / 0', "_base_ = './none.py'", 'x = nothing'])
def test_a_broken_config_is_named(tmp_path, text):
    path = tmp_path / 'broken.py'
    path.write_text(text)
    with pytest.raises(InputError, match='broken.py: cannot read this config: [A-Z][A-Za-z]+Error: .'):
        config.load(path)


def test_options_change_the_config():
    options = [
        'train_cfg.max_epochs=3',
        'model.backbone.frozen_stages=2',
        'optim_wrapper.optimizer.lr=1e-5',
        'custom_hooks.0.type=None',
        'model.neck.in_channels=1,2,3,4',
        'test_cfg.note=a=b',
        'load_from=my weights/a.pth',
        'test_cfg.names=("a", \'b\')',
    ]
    cfg = config.load('repvit_maskrcnn_coco', options)
    assert cfg.train_cfg.max_epochs == 3
    assert cfg.model.backbone.frozen_stages == 2
    assert cfg.optim_wrapper.optimizer.lr == 1e-5
    assert cfg.custom_hooks[0].type is None
    assert cfg.model.neck.in_channels == [1, 2, 3, 4]
    assert cfg.test_cfg.note == 'a=b'
    assert cfg.load_from == 'my weights/a.pth'
    assert cfg.test_cfg.names == ('a', 'b')
    assert cfg.model.backbone.arch == 'm1_1'


@pytest.mark.parametrize(
    'option, words',
    [
        ('nonsense', 'takes key=value pairs'),
        ('=1', 'takes key=value pairs'),
        ('train_cgf.max_epochs=1', "did you mean 'train_cfg'"),
        ('custom_hooks.99.type=x', 'cannot be applied'),
        ('load_from.x.y=1', 'cannot be applied'),
        ('model.neck.in_channels=[1,(2', 'Imbalanced brackets'),
    ],
)
def test_options_that_make_no_sense(option, words):
    with pytest.raises(InputError, match=re.escape(words)) as refused:
        config.load('repvit_maskrcnn_coco', ['train_cfg.max_epochs=1', option])
    assert option in str(refused.value)


# --- data ---


def test_a_right_config_passes(cfg):
    config.check(cfg, ('train', 'val', 'test'))


def test_only_the_splits_asked_for_are_looked_at(cfg, root):
    cfg.train_dataloader.dataset.ann_file = 'none.json'
    config.check(cfg, ('val', 'test'))
    assert 'none.json' in refusal(cfg, ('train',))


@pytest.mark.parametrize('key, value, missing', [('ann_file', 'a.json', 'a.json'), ('data_prefix', {'img': 'b'}, 'b')])
def test_missing_data(cfg, root, key, value, missing):
    cfg.train_dataloader.dataset[key] = value
    message = refusal(cfg)
    assert message.startswith(f'{root / missing}: not found')
    assert 'cocodataset.org' in message
    assert 'python tools/train.py configs/repvit_maskrcnn_shapes.py' in message


def test_missing_annotations_of_the_evaluator(cfg, root):
    cfg.val_evaluator = [{'type': 'CocoMetric', 'ann_file': str(root / 'none.json')}]
    message = refusal(cfg)
    assert message.startswith(f'{root / "none.json"}: no such annotation file (val_evaluator)')
    config.check(cfg, ('train', 'test'))


def test_annotations_that_are_not_json(cfg, root):
    (root / ANNOTATIONS).write_text('<annotation>')
    message = refusal(cfg)
    assert message.startswith(f'{root / ANNOTATIONS}: not JSON (')


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
    assert refusal(cfg) == f'{root / ANNOTATIONS}: not COCO annotations, it lacks a list of {lacking}'


def test_missing_classes(cfg, root):
    classes = ['cat', 'fly', 'dog', 'bee', 'cow']
    cfg = detector(dataset(root, classes), num_classes=5)
    message = refusal(cfg)
    assert f'{root / ANNOTATIONS} has no class fly, bee; it has cat, dog, cow.' in message
    assert 'metainfo=dict(classes=' in message


def test_names_of_coco_are_expected_where_none_are_given(cfg, root):
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        del loader.dataset['metainfo']
    assert 'has no class person, bicycle, car, motorcycle, airplane, ...' in refusal(cfg)


def test_classes_in_another_order(root):
    message = refusal(detector(dataset(root, ('cat', 'cow', 'dog'))))
    assert f"{root / ANNOTATIONS} and the config order the classes differently (number 1: 'dog' in the file" in message
    assert "'cow' in the config" in message
    assert 'Use the order of the file' in message


def test_some_of_the_classes_will_do(root):
    """mmdet drops annotations of the others."""
    config.check(detector(dataset(root, ('cat', 'cow')), num_classes=2), ('train',))


@pytest.mark.parametrize('gone, words', [(1, '1 of the 9 images'), (5, '5 of the 9 images')])
def test_images_that_are_not_there(tmp_path, gone, words):
    root = write_coco(tmp_path / 'coco', images=9)
    for i in range(gone):
        (root / IMAGES / f'{i}.jpg').unlink()
    names = ', '.join(f'{i}.jpg' for i in range(gone))
    assert refusal(detector(dataset(root))) == (
        f'{root / ANNOTATIONS}: {words} that it lists are not in {root / IMAGES}; is the download complete? ({names})'
    )


def test_images_in_folders_below(tmp_path):
    root = write_coco(tmp_path / 'coco', images=1)
    (root / IMAGES / 'a').mkdir()
    (root / IMAGES / '0.jpg').rename(root / IMAGES / 'a/0.jpg')
    assert '1 of the 1 images' in refusal(detector(dataset(root)))
    text = (root / ANNOTATIONS).read_text().replace('0.jpg', 'a/0.jpg')
    (root / ANNOTATIONS).write_text(text)
    config.check(detector(dataset(root)), ('train',))


@pytest.mark.parametrize('wrapper', ['RepeatDataset', 'ConcatDataset', 'both'])
def test_wrapped_data_sets_are_looked_into(tmp_path, root, wrapper):
    bad = dataset(write_coco(tmp_path / 'bad', classes=('cat', 'cow', 'dog')))
    wrapped = {
        'RepeatDataset': {'type': 'RepeatDataset', 'times': 2, 'dataset': bad},
        'ConcatDataset': {'type': 'ConcatDataset', 'datasets': [dataset(root), bad]},
        'both': {
            'type': 'ClassBalancedDataset',
            'dataset': {
                'type': 'ConcatDataset',
                'datasets': [dataset(root), {'type': 'RepeatDataset', 'dataset': bad}],
            },
        },
    }[wrapper]
    assert str(tmp_path / 'bad') in refusal(detector(wrapped, val=dataset(root)))


def test_other_kinds_of_data_are_not_judged(cfg):
    cfg.train_dataloader.dataset = {'type': 'VOCDataset', 'data_root': 'nowhere', 'ann_file': 'none.txt'}
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


def test_both_class_counts_wrong_are_found_in_turn(root):
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
    cfg.model.bbox_head = {'type': 'X', 'in_channels': [1, 2], 'num_classes': 3}
    assert 'model.bbox_head.in_channels = [1, 2]' in refusal(cfg)


@pytest.mark.parametrize(
    'change, words',
    [
        ({'arch': 'm9_9'}, ["unknown arch 'm9_9'", 'm1_1']),
        ({'depth': 50}, ["unexpected keyword argument 'depth'"]),
        ({'type': 'RepVit'}, ['RepVit is not in the']),
        ({'tap': 'middle'}, ["unknown tap 'middle'"]),
    ],
)
def test_wrong_backbone_arguments(cfg, change, words):
    cfg.model.backbone.update(change)
    message = refusal(cfg)
    assert message.startswith('model.backbone: ')
    assert all(word in message for word in words)
    assert message[len('model.backbone: ')] not in '\'"'  # as the text of a KeyError would begin


@pytest.mark.parametrize('type_', ['ResNet', 'SwinTransformer'])
def test_stock_backbones_pass(cfg, type_):
    """Swin reads values while it is built, which no tensor without memory has."""
    cfg.model.backbone = {'type': type_, **({'depth': 18} if type_ == 'ResNet' else {'depths': (1, 1, 1, 1)})}
    config.check(cfg, ('train',))


def test_a_model_without_backbone_is_not_judged(cfg):
    cfg.model = {'type': 'Wrapper', 'detector': dict(cfg.model)}
    config.check(cfg, ('train',))


def test_weights_are_not_loaded_for_a_check(cfg):
    cfg.model.backbone.init_cfg = {'type': 'Pretrained', 'checkpoint': 'no_such_file.pth'}
    config.check(cfg, ('train',))
    assert cfg.model.backbone.init_cfg.checkpoint == 'no_such_file.pth'


# --- the embedded data ---


@pytest.fixture
def embedded(tmp_path):
    return Config({'embedded_data': {'root': str(tmp_path / 'shapes'), 'num_train': 2, 'num_val': 1, 'size': (64, 64)}})


def test_embedded_data_is_drawn_once(embedded, tmp_path, monkeypatch):
    config.prepare_data(embedded)
    assert len(list((tmp_path / 'shapes/train2017').iterdir())) == 2

    def fail(*args):
        raise AssertionError('drawn again')

    monkeypatch.setattr(shapes, 'draw', fail)
    config.prepare_data(embedded)
    embedded.embedded_data.seed = 1
    with pytest.raises(AssertionError, match='drawn again'):
        config.prepare_data(embedded)


def test_no_embedded_data_nothing_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for cfg in (Config({}), Config({'embedded_data': None})):
        config.prepare_data(cfg)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_things_is_left_alone(embedded, tmp_path):
    (tmp_path / 'shapes').mkdir()
    (tmp_path / 'shapes/thesis.tex').touch()
    with pytest.raises(InputError, match=r'embedded_data of the config: .*thesis\.tex'):
        config.prepare_data(embedded)
    assert [path.name for path in (tmp_path / 'shapes').iterdir()] == ['thesis.tex']


@pytest.mark.parametrize('change', [{'num_train': 0}, {'number': 3}, {'size': (10, 10)}])
def test_wrong_arguments_of_the_embedded_data(embedded, change):
    embedded.embedded_data.update(change)
    with pytest.raises(InputError, match=f'embedded_data of the config: .*{next(iter(change))}'):
        config.prepare_data(embedded)
