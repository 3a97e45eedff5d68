"""Replace each value of an annotation file by hostile ones: the check must find those that the loaders cannot read."""

import copy
import io
import json
import warnings
from contextlib import redirect_stdout

import numpy as np
import pytest
from PIL import Image

from repvit_dense.compat.coco_api import Annotations
from repvit_dense.compat.panoptic_api import patched
from repvit_dense.data import checks
from repvit_dense.errors import InputError

REMOVED = object()
NAN, INFINITE = float('nan'), float('inf')
VALUES = [REMOVED, None, True, False, 0, 1, 2, -1, 2.5, NAN, INFINITE, 1e18, 10**400, '', '0', '1']
VALUES += [
    '..',
    '/',
    '\ud800',
    'a\0b',
    [],
    [[]],
    [1, 2, 3, 4],
    [[1, 1, 5, 1, 5, 5]],
    {},
    {'size': [8, 10], 'counts': 'o'},
]
BOX = {'bbox': [2, 2, 4, 4], 'area': 16, 'iscrowd': 0, 'category_id': 1}
MASKS = (
    [[2, 2, 6, 2, 6, 6, 2, 6]],
    {'size': [8, 10], 'counts': [18, 4, 4, 4, 4, 4, 4, 4, 34]},
    {'size': [8, 10], 'counts': 'b04400000n0'},
)


def objects():
    """Return a COCO file with one image and an object for each kind of mask."""
    boxes = [{**BOX, 'bbox': [2, 2, 4, height]} for height in (4, 4.25, 4.5)]
    return {
        'images': [{'id': 1, 'file_name': '1.png', 'width': 10, 'height': 8}],
        'annotations': [
            {'id': i, 'image_id': 1, **box, 'segmentation': mask}
            for i, (box, mask) in enumerate(zip(boxes, MASKS, strict=True), 1)
        ],
        'categories': [{'id': 1, 'name': 'cat', 'supercategory': 'animal'}],
    }


def segments():
    """Return a panoptic file with one image, a thing and stuff."""
    stuff = {'id': 9, 'bbox': [0, 0, 10, 8], 'area': 64, 'iscrowd': 0, 'category_id': 2}
    return {
        'images': [{'id': 1, 'file_name': '1.png', 'width': 10, 'height': 8}],
        'annotations': [{'image_id': 1, 'file_name': '1.png', 'segments_info': [{'id': 5, **BOX}, stuff]}],
        'categories': [{'id': 1, 'name': 'cat', 'isthing': 1}, {'id': 2, 'name': 'sky', 'isthing': 0}],
    }


def paths(content, path=()):
    """Yield the path of every value in nested lists and dictionaries; of a list of numbers, the first and the last."""
    if path:
        yield path
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    if isinstance(content, list) and isinstance(content[0], int):
        keys = (0, len(content) - 1)
    for key in keys:
        yield from paths(content[key], (*path, key))


def mutations(content):
    """Yield copies of the content, each with one value replaced or removed.

    Of the annotations after the first, which differ in their masks only, just the mask is changed.
    """
    chosen = [path for path in paths(content) if path[:1] != ('annotations',) or 0 in path[1:2] or len(path) < 2]
    chosen += [path for path in paths(content) if path not in chosen and 'segmentation' in path]
    for *parents, last in chosen:
        for value in VALUES:
            changed = copy.deepcopy(content)
            entry = changed
            for key in parents:
                entry = entry[key]
            if value is REMOVED:
                del entry[last]
            else:
                entry[last] = value
            yield changed


def class_names(content):
    try:
        return [category['name'] for category in content['categories']]
    except (KeyError, TypeError):
        return ['cat']


@pytest.fixture
def folder(tmp_path):
    """Return a folder with an image and its panoptic map."""
    Image.new('RGB', (10, 8)).save(tmp_path / '1.png')
    pixels = np.full((8, 10, 3), (9, 0, 0), np.uint8)
    pixels[2:6, 2:6] = 5, 0, 0
    (tmp_path / 'maps').mkdir()
    Image.fromarray(pixels).save(tmp_path / 'maps/1.png')
    return tmp_path


def report_of(folder, content, panoptic=False):
    """Return the report about a file with this content, or None if the file is refused."""
    file = folder / 'coco.json'
    file.unlink(missing_ok=True)  # overwriting takes ten times as long on some file systems
    file.write_text(json.dumps(content))
    names = class_names(content)
    try:
        if panoptic:
            return checks.panoptic(file, folder, folder / 'maps', names, 1)
        return checks.instances(file, folder, names, masks=True)
    except InputError:
        return None


def test_valid_files_have_no_findings(folder):
    assert report_of(folder, objects()).findings == []
    assert report_of(folder, segments(), panoptic=True).findings == []


@pytest.mark.parametrize('panoptic', [False, True])
def test_findings_or_a_refusal_for_every_value(folder, panoptic):
    reports = [report_of(folder, content, panoptic) for content in mutations(segments() if panoptic else objects())]
    texts = {str(finding) for report in reports if report for finding in report.findings}
    assert len(texts) > 200
    assert max(map(len, texts)) < 1000


def samples(folder, kind, content, prefix, loading):
    """Return the samples that a data set of mmdet loads to train with."""
    names = tuple(class_names(content))
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        data = kind(
            ann_file=str(folder / 'coco.json'),
            data_prefix={'img': str(folder), **prefix},
            metainfo={'classes': names, 'thing_classes': names[:1], 'stuff_classes': names[1:]},
            pipeline=[{'type': 'LoadImageFromFile'}, loading],
            serialize_data=False,
        )
        return [data[index] for index in range(len(data))]


def load_objects(folder, content):
    """Return the number of objects with pixels, without crowds."""
    from mmdet.datasets import CocoDataset

    loading = {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True}
    loaded = samples(folder, CocoDataset, content, {}, loading)
    Annotations(folder / 'coco.json').truth('segm')
    return sum(int((~s['gt_ignore_flags'] & s['gt_masks'].masks.any((1, 2))).sum()) for s in loaded)


def load_segments(folder, content):
    """Return the number of classes that have pixels."""
    from mmdet.datasets import CocoPanopticDataset

    with patched():
        loaded = samples(
            folder, CocoPanopticDataset, content, {'seg': str(folder / 'maps')}, {'type': 'LoadPanopticAnnotations'}
        )
    return sum(len(set(np.unique(sample['gt_seg_map'])) - {255}) for sample in loaded)


def number_of_objects(content):
    return sum(not annotation.get('iscrowd') for annotation in content['annotations'])


def number_of_categories(content):
    return len(
        {segment['category_id'] for annotation in content['annotations'] for segment in annotation['segments_info']}
    )


@pytest.mark.parametrize(
    'content, load, expected',
    [(objects(), load_objects, number_of_objects), (segments(), load_segments, number_of_categories)],
)
def test_what_has_no_error_is_loaded_and_what_is_lost_is_reported(folder, content, load, expected):
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    loaded = 0
    for changed in mutations(content):
        report = report_of(folder, changed, panoptic=load is load_segments)
        if report is None or any(finding.level == 'error' for finding in report.findings):
            continue
        loaded += 1
        if load(folder, changed) < expected(changed):
            assert [f for f in report.findings if 'images have no object' not in f.message], changed
    assert loaded > 50
