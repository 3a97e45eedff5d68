"""The embedded data set is drawn once; the classes of a checkpoint must be those of the data."""

import pytest
from mmengine.config import Config

from repvit_dense import config
from repvit_dense.data import shapes
from repvit_dense.errors import InputError

NAMES = ('repvit_maskrcnn_coco', 'repvit_semfpn_ade20k')


@pytest.fixture
def embedded(tmp_path):
    return Config({'embedded_data': {'root': str(tmp_path / 'shapes'), 'num_train': 2, 'num_val': 1, 'size': (64, 64)}})


def test_embedded_data_is_drawn_once(embedded, tmp_path, monkeypatch):
    config.prepare_data(embedded)
    assert len(list((tmp_path / 'shapes/train2017').iterdir())) == 2

    def fail(*args):
        raise AssertionError('drawn again')

    monkeypatch.setattr(shapes.writing, 'draw', fail)
    config.prepare_data(embedded)
    embedded.embedded_data.seed = 1
    with pytest.raises(AssertionError, match='drawn again'):
        config.prepare_data(embedded)


def test_without_embedded_data_nothing_is_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for cfg in (Config({}), Config({'embedded_data': None})):
        config.prepare_data(cfg)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_files_is_refused(embedded, tmp_path):
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


# --- classes ---


def classes_of(name):
    cfg = config.load(name)
    return tuple(config.dataset_meta(cfg.test_dataloader.dataset, cfg.default_scope)['classes'])


@pytest.mark.parametrize('key', ['CLASSES', 'dataset_meta'])
@pytest.mark.parametrize('name', NAMES)
def test_classes_in_another_order_are_refused(name, key):
    classes = list(classes_of(name))
    same = {'meta': {key: classes if key == 'CLASSES' else {'classes': classes}}}
    config.check_trained_classes(config.load(name), same)
    classes[3], classes[5] = classes[5], classes[3]
    with pytest.raises(InputError, match=f"first differ at class 3: checkpoint '{classes[3]}', data '{classes[5]}'"):
        config.check_trained_classes(config.load(name), same)


def test_fewer_classes_are_refused():
    classes = classes_of('repvit_maskrcnn_coco')[:-1]
    with pytest.raises(
        InputError, match="trained on 79 classes, the data has 80.*class 79: checkpoint none, data 'toothbrush'"
    ):
        config.check_trained_classes(config.load('repvit_maskrcnn_coco'), {'meta': {'CLASSES': classes}})


@pytest.mark.parametrize('checkpoint', [{}, {'meta': None}, {'meta': {'epoch': 1}}])
def test_a_file_without_classes_is_accepted(checkpoint):
    config.check_trained_classes(config.load('repvit_maskrcnn_coco'), checkpoint)


def test_class_order_of_coco_follows_its_annotation_files():
    """Compare with the order of category ids in `instances_val2017.json`; they have gaps and end at 90."""
    classes = classes_of('repvit_maskrcnn_coco')
    assert len(classes) == 80
    assert [classes[i] for i in (0, 1, 11, 12, 45, 79)] == [
        'person',
        'bicycle',
        'stop sign',
        'parking meter',
        'bowl',
        'toothbrush',
    ]


def test_class_order_of_ade20k_follows_the_benchmark():
    """Compare with `objectInfo150.txt` of the scene parsing benchmark, most frequent class first; 0 means no class."""
    classes = classes_of('repvit_semfpn_ade20k')
    assert len(classes) == 150
    assert [classes[i] for i in (0, 1, 2, 12, 149)] == ['wall', 'building', 'sky', 'person', 'flag']
