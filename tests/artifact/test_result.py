"""A prediction as arrays, picture, JSON, COCO entries and supervision detections."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as codec

from repvit_dense.artifact.predictor import Predictor
from repvit_dense.artifact.result import Result
from repvit_dense.errors import InputError

NAMES = ['cat', 'dog', 'sky']
KINDS = ['detection', 'roi', 'image', 'panoptic', 'semantic']


@pytest.fixture
def pixels():
    return np.full((6, 8, 3), 90, np.uint8)


@pytest.fixture
def objects(pixels):
    """Two objects with masks; the second scores 0.2."""
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1:3, 2:6] = masks[1, 4:, :2] = True
    return Result(
        pixels,
        NAMES,
        boxes=np.array([[2, 1, 6, 3], [0, 4, 2, 6]], np.float32),
        scores=np.array([0.9, 0.2], np.float32),
        labels=np.array([1, 0], np.int32),
        masks=masks,
    )


@pytest.fixture
def class_map(pixels):
    seg = np.zeros((6, 8), np.int32)
    seg[:, :2] = 2
    return Result(pixels, NAMES, seg=seg)


@pytest.fixture
def panoptic(pixels):
    """Two dogs and a segment number of none."""
    segments = np.array([[1, 1, 1, 1, 2, 2, 0, 0]] * 6, np.int32)
    info = [{'number': number, 'label': 1, 'is_thing': True} for number in (1, 2)]
    return Result(pixels, NAMES, segments=segments, segment_info=info)


def test_objects_below_the_score_are_left_out(objects):
    (entry,) = objects.objects(score=0.3)
    assert (entry['label'], entry['score'], entry['box']) == ('dog', 0.9, [2.0, 1.0, 6.0, 3.0])
    assert np.array_equal(codec.decode(entry['mask']), objects.masks[0])
    assert objects.regions() == []
    assert objects.segment_map() is None


def test_regions_of_a_class_map(class_map):
    assert class_map.regions() == [
        {'number': 0, 'label': 'cat', 'share': 0.75},
        {'number': 2, 'label': 'sky', 'share': 0.25},
    ]
    assert class_map.segment_map().dtype == np.uint16
    assert class_map.objects() == []


def test_regions_of_panoptic_segments_leave_pixels_of_none_out(panoptic):
    assert panoptic.regions() == [
        {'number': 1, 'label': 'dog', 'share': 0.5},
        {'number': 2, 'label': 'dog', 'share': 0.25},
    ]


def test_coco_entries_of_objects(objects):
    """pycocotools decodes the masks; boxes are x y width height."""
    first, second = json.loads(json.dumps(objects.to_coco(image_id=7)))
    assert (first['image_id'], first['category_id'], first['bbox']) == (7, 1, [2, 1, 4, 2])
    assert second['score'] == pytest.approx(0.2)
    assert np.array_equal(codec.decode(second['segmentation']), objects.masks[1])


def test_coco_entries_of_segments(panoptic):
    entries = panoptic.to_coco()
    assert [entry['category_id'] for entry in entries] == [1, 1]
    assert [int(codec.area(entry['segmentation'])) for entry in entries] == [24, 12]


def test_supervision_detections_of_objects(objects):
    detections = objects.to_supervision(score=0.5)
    assert detections.xyxy.tolist() == [[2, 1, 6, 3]]
    assert detections.data['class_name'].tolist() == ['dog']
    assert np.array_equal(detections.mask, objects.masks[:1])


def test_supervision_detections_of_segments(panoptic, class_map):
    assert panoptic.to_supervision().class_id.tolist() == [1, 1]
    assert class_map.to_supervision().data['class_name'].tolist() == ['cat', 'sky']


def test_supervision_detections_without_objects(pixels):
    empty = np.zeros((0, 4), np.float32)
    result = Result(pixels, NAMES, boxes=empty, scores=empty[:, 0], labels=np.zeros(0, np.int32))
    assert len(result.to_supervision()) == len(result) == 0
    assert result.to_coco() == []


@pytest.mark.parametrize('kind', KINDS)
def test_a_picture_of_every_task(artifact, image, kind):
    result = Predictor(artifact(kind))(image(97, 131))
    assert result.plot().dtype == np.uint8
    assert cv2.imdecode(np.frombuffer(result._repr_jpeg_(), np.uint8), cv2.IMREAD_COLOR).shape == result.plot().shape


@pytest.mark.parametrize('name', ['out.jpg', 'out.png'])
def test_a_picture_is_saved(objects, tmp_path, name):
    assert objects.save(tmp_path / name) == tmp_path / name
    assert cv2.imread(str(tmp_path / name)).shape == objects.plot().shape


@pytest.mark.parametrize('name', ['missing/out.jpg', 'out.nonsense', 'out'])
def test_a_picture_that_cannot_be_written_is_refused(objects, tmp_path, name):
    with pytest.raises(InputError, match='out'):
        objects.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_the_text_form_is_one_line(objects, class_map, panoptic, pixels):
    assert repr(objects) == 'Result(image, 8x6: 1 dog, 1 cat)'
    assert repr(panoptic) == 'Result(image, 8x6: 2 dog)'
    assert repr(Result(pixels, NAMES, path=Path('a.jpg'), seg=class_map.seg)) == 'Result(a.jpg, 8x6: 1 cat, 1 sky)'
    assert [len(result) for result in (objects, class_map, panoptic)] == [2, 2, 2]


def test_the_path_of_a_file_is_kept(artifact, image, tmp_path):
    cv2.imwrite(str(tmp_path / 'x.png'), image(40, 50))
    model = Predictor(artifact('detection'))
    assert model(str(tmp_path / 'x.png')).path == tmp_path / 'x.png'
    assert model(image(40, 50)).path is None
