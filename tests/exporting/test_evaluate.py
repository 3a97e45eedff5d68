"""Evaluation of an artifact with the data and the metrics of a config."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as codec

from repvit_dense import config
from repvit_dense.artifact.predictor import Predictor
from repvit_dense.artifact.result import Result
from repvit_dense.engine.pictures import LINE
from repvit_dense.errors import InputError
from repvit_dense.exporting import evaluate

THINGS = ['circle', 'square', 'triangle', 'star', 'ring', 'cross', 'heart', 'crescent']
ALL = [*THINGS, 'stripes', 'checks', 'speckle', 'waves']
# Config -> kind of tiny artifact, its classes, and the metrics of a perfect model.
TASKS = {
    'repvit_maskrcnn_shapes': ('roi', THINGS, {'coco/bbox_mAP': 1.0, 'coco/segm_mAP': 1.0}),
    'repvit_mask2former_shapes-panoptic': ('panoptic', ALL, {'coco_panoptic/PQ': 100.0, 'coco_panoptic/SQ': 100.0}),
    'repvit_segformer_shapes': ('semantic', ALL, {'mIoU': 100.0, 'aAcc': 100.0}),
}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Generate a small data set and return its folder."""
    from repvit_dense.data import shapes

    root = tmp_path_factory.mktemp('data') / 'shapes'
    shapes.generate(root=str(root), seed=0, num_train=1, num_val=4, size=(96, 128))
    return root


@pytest.fixture
def load(root, tmp_path):
    """Return `load(name)`, which loads a config on the small data set."""

    def load(name):
        options = [f'test_dataloader.dataset.data_root={root}', f'work_dir={tmp_path}/work']
        cfg = config.load(name, options)
        cfg.launcher = 'none'
        metric = cfg.test_evaluator
        for key in ('ann_file', 'seg_prefix'):
            if key in metric:
                metric[key] = metric[key].replace(cfg.data_root.rstrip('/'), str(root))
        return cfg

    return load


@pytest.fixture
def truth(root):
    """Return a function per kind of artifact from an image path to perfect results, read from the annotations."""

    def instances(path):
        data = json.loads((root / 'annotations/instances_val2017.json').read_text())
        (image,) = (entry for entry in data['images'] if entry['file_name'] == path.name)
        size = image['height'], image['width']
        annotations = [entry for entry in data['annotations'] if entry['image_id'] == image['id']]
        order = sorted(entry['id'] for entry in data['categories'])
        boxes = np.array([entry['bbox'] for entry in annotations], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = [codec.decode(_encoded(entry['segmentation'], size)) > 0 for entry in annotations]
        return {
            'boxes': boxes,
            'scores': np.linspace(0.9, 0.5, len(annotations), dtype=np.float32),
            'labels': np.array([order.index(entry['category_id']) for entry in annotations], np.int32),
            'masks': np.array(masks).reshape(-1, *size),
        }

    def panoptic(path):
        data = json.loads((root / 'annotations/panoptic_val2017.json').read_text())
        (entry,) = (part for part in data['annotations'] if part['file_name'] == f'{path.stem}.png')
        blue, green, red = cv2.split(cv2.imread(str(root / 'annotations/panoptic_val2017' / entry['file_name'])))
        ids = red.astype(int) + 256 * green.astype(int) + 65536 * blue.astype(int)
        names = {part['id']: part['name'] for part in data['categories']}
        segments, info = np.zeros(ids.shape, np.int32), []
        for number, part in enumerate(entry['segments_info'], 1):
            label = ALL.index(names[part['category_id']])
            segments[ids == part['id']] = number
            info.append({'number': number, 'label': label, 'is_thing': label < len(THINGS), 'score': 0.9})
        return {'segments': segments, 'segment_info': info}

    def semantic(path):
        seg = cv2.imread(str(root / 'annotations/semantic_val2017' / f'{path.stem}.png'), cv2.IMREAD_UNCHANGED)
        return {'seg': seg.astype(np.int32)}

    return {'roi': instances, 'panoptic': panoptic, 'semantic': semantic}


def _encoded(segmentation, size):
    if isinstance(segmentation, list):
        return codec.merge(codec.frPyObjects(segmentation, *size))
    return codec.frPyObjects(segmentation, *size) if isinstance(segmentation['counts'], list) else segmentation


def run(cfg, folder):
    from repvit_dense.engine.runner import DenseRunner

    evaluate.check(cfg, folder)
    evaluate.use_artifact(cfg, folder, threads=1)
    return DenseRunner.from_cfg(cfg).test()


@pytest.mark.parametrize('name', TASKS)
def test_the_annotations_as_results_have_perfect_metrics(load, artifact, truth, monkeypatch, name):
    kind, classes, expected = TASKS[name]
    blank = np.zeros((96, 128, 3), np.uint8)
    results = lambda self, paths: (Result(blank, classes, **truth[kind](Path(path))) for path in paths)  # noqa: E731
    monkeypatch.setattr(Predictor, 'stream', results)
    metrics = run(load(name), artifact(kind, classes=classes))
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, abs=1e-3)


def test_ids_of_every_kind_have_perfect_metrics(load, artifact, truth, root, monkeypatch):
    """The labels of the categories are their order in the file, whatever their ids."""
    file, kinds = root / 'annotations/instances_val2017.json', [lambda n: f'{n}', lambda n: -n, lambda n: 2**70 + n]
    content = json.loads(file.read_text())
    order = {entry['id']: number for number, entry in enumerate(content['categories'])}
    blank, expected = np.zeros((96, 128, 3), np.uint8), TASKS['repvit_maskrcnn_shapes'][2]
    results = {image['file_name']: truth['roi'](Path(image['file_name'])) for image in content['images']}
    for image in content['images']:
        image['id'] = kinds[image['id'] % 3](image['id'])
    for category in content['categories']:
        category['id'] = kinds[category['id'] % 3](category['id'])
    categories = [category['id'] for category in content['categories']]
    for number, annotation in enumerate(content['annotations']):
        annotation['id'] = kinds[number % 3](number)
        annotation['image_id'] = kinds[annotation['image_id'] % 3](annotation['image_id'])
        annotation['category_id'] = categories[order[annotation['category_id']]]
        del annotation['iscrowd']
    renamed = file.with_name('renamed.json')
    renamed.write_text(json.dumps(content))
    monkeypatch.setattr(
        Predictor,
        'stream',
        lambda self, paths: (Result(blank, THINGS, **results[Path(path).name]) for path in paths),
    )
    cfg = load('repvit_maskrcnn_shapes')
    cfg.test_dataloader.dataset.ann_file = cfg.test_evaluator.ann_file = str(renamed)
    metrics = run(cfg, artifact('roi', classes=THINGS))
    assert {key: metrics[key] for key in expected} == expected


@pytest.mark.parametrize('name', TASKS)
def test_an_untrained_artifact_has_low_metrics(load, artifact, name):
    kind, classes, expected = TASKS[name]
    metrics = run(load(name), artifact(kind, classes=classes))
    assert expected.keys() <= metrics.keys()
    assert all(metrics[key] < value / 2 for key, value in expected.items() if not key.endswith('SQ'))


def test_pictures_show_ground_truth_beside_prediction(load, artifact, tmp_path):
    cfg = load('repvit_maskrcnn_shapes')
    cfg.default_hooks.visualization.update(draw=True, test_out_dir=str(tmp_path / 'pictures'))
    run(cfg, artifact('roi', classes=THINGS))
    pictures = sorted((tmp_path / 'pictures').iterdir())
    assert len(pictures) == 4
    height, width, _ = cv2.imread(str(pictures[0])).shape
    assert (width - LINE) / height == 2 * 128 / 96


def test_other_classes_than_those_of_the_data_are_refused(load, artifact):
    folder = artifact('roi', classes=[*THINGS[:-1], 'moon'])
    with pytest.raises(InputError) as raised:
        evaluate.check(load('repvit_maskrcnn_shapes'), folder)
    assert f"{folder}: trained on 8 classes, the data has 8; they first differ at class 7: checkpoint 'moon'" in str(
        raised.value
    )


def test_another_task_than_that_of_the_config_is_refused(load, artifact):
    with pytest.raises(InputError, match='an artifact for task detection, but .* evaluates instance; .*repvit_x'):
        evaluate.check(load('repvit_maskrcnn_shapes'), artifact('detection', classes=THINGS, config='repvit_x'))


def test_instance_metrics_are_left_out_for_a_panoptic_artifact(load, artifact, capsys):
    cfg = load('repvit_mask2former_shapes-panoptic')
    cfg.test_evaluator = [cfg.test_evaluator, {'type': 'CocoMetric', 'metric': 'segm'}]
    evaluate.use_artifact(cfg, artifact('panoptic', classes=ALL))
    assert [metric.type for metric in cfg.test_evaluator] == ['DensePanopticMetric']
    assert 'the instance metrics are left out' in capsys.readouterr().err


def test_the_ema_hook_is_removed(load, artifact):
    cfg = load('repvit_maskrcnn_shapes')
    cfg.custom_hooks = [{'type': 'EMAHook'}, {'type': 'DenseProgressHook'}]
    evaluate.use_artifact(cfg, artifact('roi', classes=THINGS))
    assert [hook['type'] for hook in cfg.custom_hooks] == ['DenseProgressHook']


def test_an_image_that_cannot_be_read_stops_the_evaluation(load, artifact, root, monkeypatch):
    from repvit_dense.artifact import predictor

    def read_image(image, max_pixels):
        raise InputError(f'{image}: not an image')

    monkeypatch.setattr(predictor, 'read_input', read_image)
    with pytest.raises(InputError, match='not an image'):
        run(load('repvit_maskrcnn_shapes'), artifact('roi', classes=THINGS))
