"""The annotations agree with each other and with the drawn samples, and pycocotools and mmdet read them."""

from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as codec

import repvit_dense  # noqa: F401  (mmdet can be imported without the compiled ops of mmcv)
from repvit_dense.data.shapes import SPLITS, STUFF_CLASSES, THING_CLASSES, categories, draw
from repvit_dense.data.shapes.writing import FIRST_STUFF_ID

NUM_THINGS = len(THING_CLASSES)


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]


def test_all_classes_and_sizes_occur(drawn):
    areas = np.array([annotation['area'] for annotation in drawn.coco.anns.values()])
    assert {annotation['category_id'] for annotation in drawn.coco.anns.values()} == set(range(1, NUM_THINGS + 1))
    for low, high in ((0, 32**2), (32**2, 96**2), (96**2, np.inf)):  # small, medium and large objects of COCO
        assert ((low <= areas) & (areas < high)).sum() >= 10
    semantic = [np.unique(drawn.maps('train2017', image['file_name'])[1]) for image in drawn.coco.imgs.values()]
    assert set(np.concatenate(semantic)) == set(range(NUM_THINGS + len(STUFF_CLASSES)))


def test_categories():
    assert [c['id'] for c in categories()] == list(range(1, 13))
    assert [c['name'] for c in categories()] == [*THING_CLASSES, *STUFF_CLASSES]
    assert [c['isthing'] for c in categories()] == [1] * 8 + [0] * 4


@pytest.mark.parametrize('split', SPLITS)
def test_ids_and_categories_of_the_files(drawn, split):
    instances, panoptic = (drawn.load(kind, split) for kind in ('instances', 'panoptic'))
    for key in ('images', 'annotations'):
        assert [entry['id'] for entry in instances[key]] == list(range(1, len(instances[key]) + 1))
    assert [(c['id'], c['name']) for c in instances['categories']] == [*enumerate(THING_CLASSES, start=1)]
    assert panoptic['categories'] == categories()
    assert instances['images'] == panoptic['images']
    for image, record in zip(panoptic['images'], panoptic['annotations'], strict=True):
        assert (record['image_id'], record['file_name']) == (image['id'], image['file_name'])
        assert drawn.pixels(f'{split}/{image["file_name"]}').shape == (image['height'], image['width'], 3)
    segments = [segment['id'] for record in panoptic['annotations'] for segment in record['segments_info']]
    assert len(set(segments)) == len(segments)


@pytest.mark.parametrize('split', SPLITS)
def test_panoptic_and_semantic_maps_agree(drawn, split):
    for record in drawn.load('panoptic', split)['annotations']:
        ids, semantic = drawn.maps(split, record['file_name'])
        segments = {segment['id']: segment for segment in record['segments_info']}
        assert set(np.unique(ids)) == set(segments)  # every pixel has a segment, every segment has a pixel
        for segment in segments.values():
            mask = ids == segment['id']
            assert (semantic[mask] == segment['category_id'] - 1).all()
            assert segment['area'] == mask.sum()
            assert segment['bbox'] == box_of(mask)
            assert segment['iscrowd'] == 0
        stuff = [s['category_id'] for s in segments.values() if s['category_id'] > NUM_THINGS]
        assert len(set(stuff)) == len(stuff)


@pytest.mark.parametrize('split', SPLITS)
def test_instances_and_panoptic_segments_agree(drawn, split):
    """Segments are disjoint, so equal instance masks do not overlap either."""
    instances, panoptic = (drawn.load(kind, split) for kind in ('instances', 'panoptic'))
    by_image = {image['id']: [] for image in instances['images']}
    for annotation in instances['annotations']:
        by_image[annotation['image_id']].append(annotation)
    for record in panoptic['annotations']:
        ids, _ = drawn.maps(split, record['file_name'])
        segments = {segment['id']: segment for segment in record['segments_info']}
        things = {key for key, segment in segments.items() if segment['category_id'] <= NUM_THINGS}
        assert {annotation['id'] for annotation in by_image[record['image_id']]} == things
        for annotation in by_image[record['image_id']]:
            np.testing.assert_array_equal(codec.decode(annotation['segmentation']), ids == annotation['id'])
            shared = ('id', 'category_id', 'bbox', 'area', 'iscrowd')
            assert [annotation[key] for key in shared] == [segments[annotation['id']][key] for key in shared]
            assert codec.area(annotation['segmentation']) == annotation['area']
            assert codec.toBbox(annotation['segmentation']).tolist() == annotation['bbox']


def test_the_files_are_those_of_the_drawn_sample(drawn):
    """A swap of channels or axes in all files would be found here."""
    sample = draw(np.random.default_rng([0, 1, 0]))
    ids, semantic = drawn.maps('val2017', '000000000001.png')
    np.testing.assert_array_equal(drawn.pixels('val2017/000000000001.png'), sample.image)
    labels = sample.labels[sample.instances.astype(int) - 1]
    expected = np.where(sample.instances > 0, labels, NUM_THINGS + sample.stuff)
    np.testing.assert_array_equal(semantic, expected)
    np.testing.assert_array_equal(np.where(ids < FIRST_STUFF_ID, ids, 0), sample.instances)


def test_pycocotools_reads_the_instances(drawn):
    coco = drawn.coco
    assert len(coco.getImgIds()) == drawn.num_train
    annotation = coco.loadAnns(coco.getAnnIds(imgIds=[1]))[0]
    assert coco.annToMask(annotation).sum() == annotation['area']
    loaded = coco.loadRes([{**a, 'score': 1.0} for a in drawn.load('instances', 'train2017')['annotations']])
    assert len(loaded.anns) == len(coco.anns)


def test_mmdet_reads_the_instances(drawn):
    from mmdet.datasets import CocoDataset

    dataset = CocoDataset(
        data_root=str(drawn.root),
        ann_file='annotations/instances_train2017.json',
        data_prefix={'img': 'train2017/'},
        metainfo={'classes': THING_CLASSES},
        filter_cfg={'filter_empty_gt': True, 'min_size': 32},
    )
    assert len(dataset) == drawn.num_train
    for index in range(drawn.num_train):
        item = dataset.get_data_info(index)
        assert Path(item['img_path']).is_file()
        expected = drawn.coco.imgToAnns[item['img_id']]
        assert [i['bbox_label'] for i in item['instances']] == [a['category_id'] - 1 for a in expected]
        assert all(i['mask'] == a['segmentation'] for i, a in zip(item['instances'], expected, strict=True))


def test_mmdet_reads_the_panoptic_segments(drawn):
    from mmdet.datasets import CocoPanopticDataset

    dataset = CocoPanopticDataset(
        data_root=str(drawn.root),
        ann_file='annotations/panoptic_val2017.json',
        data_prefix={'img': 'val2017/', 'seg': 'annotations/panoptic_val2017/'},
        metainfo={
            'classes': THING_CLASSES + STUFF_CLASSES,
            'thing_classes': THING_CLASSES,
            'stuff_classes': STUFF_CLASSES,
        },
    )
    assert len(dataset) == drawn.num_val
    for index, record in enumerate(drawn.load('panoptic', 'val2017')['annotations']):
        item = dataset.get_data_info(index)
        assert Path(item['img_path']).is_file()
        assert Path(item['seg_map_path']).is_file()
        assert [(s['id'], s['category'], s['is_thing']) for s in item['segments_info']] == [
            (s['id'], s['category_id'] - 1, s['category_id'] <= NUM_THINGS) for s in record['segments_info']
        ]
