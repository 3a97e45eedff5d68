import hashlib
import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as codec
from pycocotools.coco import COCO

import repvit_dense  # noqa: F401  (lets mmdet be imported where mmcv has no compiled ops)
from repvit_dense.data import shapes

NUM_TRAIN, NUM_VAL = 60, 3
NUM_THINGS = len(shapes.THING_CLASSES)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return shapes.generate(tmp_path_factory.mktemp('data') / 'shapes', num_train=NUM_TRAIN, num_val=NUM_VAL)


@pytest.fixture(scope='module')
def coco(root):
    return COCO(root / 'annotations/instances_train2017.json')


def hashes(folder):
    return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob('*') if p.is_file()}


def small(root, **kwargs):
    return shapes.generate(root, **{'num_train': 2, 'num_val': 1, 'size': (64, 96), **kwargs})


def load(root, kind, split):
    return json.loads((root / f'annotations/{kind}_{split}.json').read_text())


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def maps(root, split, name):
    """Panoptic segment ids and semantic labels of one image, both `(H, W)` int64."""
    blue, green, red = np.moveaxis(read(root / f'annotations/panoptic_{split}/{name}').astype(np.int64), -1, 0)
    return red + 256 * green + 65536 * blue, read(root / f'annotations/semantic_{split}/{name}').astype(np.int64)


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]


class TestDraw:
    @pytest.mark.parametrize('size', [(320, 320), (64, 64), (100, 333), (400, 64)])
    def test_sample(self, size):
        for seed in range(20):
            sample = shapes.draw(np.random.default_rng(seed), size)
            assert sample.image.shape == (*size, 3)
            assert sample.instances.shape == sample.stuff.shape == size
            assert sample.image.dtype == sample.instances.dtype == sample.stuff.dtype == np.uint8
            assert sample.labels.dtype == np.int64
            assert 1 <= len(sample.labels) <= shapes.OBJECTS[1]
            assert set(np.unique(sample.instances)) - {0} == set(range(1, len(sample.labels) + 1))
            assert set(sample.labels) <= set(range(NUM_THINGS))
            assert set(np.unique(sample.stuff)) <= set(range(len(shapes.STUFF_CLASSES)))

    def test_same_generator_state_same_sample(self):
        first, again, other = (shapes.draw(np.random.default_rng(seed), (96, 96)) for seed in (5, 5, 6))
        for field in ('image', 'instances', 'labels', 'stuff'):
            np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
        assert (first.image != other.image).any()

    @pytest.mark.parametrize('name', shapes.THING_CLASSES)
    def test_outline_area(self, name):
        """The area used to judge visibility is that of the pixels, holes excluded, also where the border cuts it."""
        contours = shapes._outlines()[name]
        inside, area = shapes._rasterize(contours, 100, 0.7, np.array([100, 100]), 200, 200)
        assert (inside >= 128).sum() == pytest.approx(area, rel=0.02)
        outside, area_outside = shapes._rasterize(contours, 100, 0.7, np.array([0, 100]), 200, 200)
        assert area_outside == pytest.approx(area)
        assert 0 < (outside >= 128).sum() < 0.9 * area

    def test_hidden_objects_are_not_drawn(self):
        """What is placed shows enough of itself, and masks are parts of the outlines, later ones on top."""
        for seed in range(30):
            _, coverages, masks = shapes._place(np.random.default_rng(seed), 320, 320, 1.0)
            hidden = np.zeros((320, 320), bool)
            for coverage, mask in zip(reversed(coverages), reversed(masks), strict=True):
                np.testing.assert_array_equal(mask, (coverage >= 128) & ~hidden)
                assert (
                    mask.sum() >= shapes.MIN_VISIBLE * (coverage >= 128).sum() * 0.93
                )  # the outline is filled a bit wide
                hidden |= mask

    def test_objects_stand_out(self):
        """Across its outline an object differs from its surroundings in most places."""
        contrasts = []
        for seed in range(20):
            sample = shapes.draw(np.random.default_rng(seed))
            lab = cv2.cvtColor(sample.image.astype(np.float32) / 255, cv2.COLOR_BGR2LAB)
            for index in range(len(sample.labels)):
                mask = (sample.instances == index + 1).astype(np.uint8)
                kernel = np.ones((5, 5), np.uint8)
                inner = lab[(mask - cv2.erode(mask, kernel, borderValue=1)) > 0].mean(0)
                outer = lab[(cv2.dilate(mask, kernel) - mask) > 0]
                contrasts.append(np.median(np.linalg.norm(outer - inner, axis=1)))
        assert np.percentile(contrasts, 5) > 25  # a difference of 2 in Lab is just visible


class TestGenerate:
    def test_same_arguments_same_bytes(self, tmp_path):
        first = hashes(small(tmp_path / 'a'))
        assert first == hashes(small(tmp_path / 'b'))
        other = hashes(small(tmp_path / 'c', seed=1))
        assert first.keys() == other.keys()
        assert all(first[path] != other[path] for path in first if path.parts[0] in shapes.SPLITS)

    def test_splits_and_images_are_independent(self, tmp_path):
        few, more = hashes(small(tmp_path / 'few')), hashes(small(tmp_path / 'more', num_train=4))
        val = [path for path in few if 'val2017' in str(path)]
        images = [path for path in few if path.parts[0] == 'train2017']
        assert len(val) == 5
        assert len(images) == 2
        assert all(few[path] == more[path] for path in val + images)
        pixels = [value for path, value in more.items() if path.parts[0] in shapes.SPLITS]
        assert len(set(pixels)) == len(pixels) == 5

    def test_layout(self, root):
        annotations = {f'{kind}_{split}.json' for kind in ('instances', 'panoptic') for split in shapes.SPLITS}
        annotations |= {f'{kind}_{split}' for kind in ('panoptic', 'semantic') for split in shapes.SPLITS}
        assert {path.name for path in root.iterdir()} == {*shapes.SPLITS, 'annotations', shapes.STAMP}
        assert {path.name for path in (root / 'annotations').iterdir()} == annotations
        for split, number in zip(shapes.SPLITS, (NUM_TRAIN, NUM_VAL), strict=True):
            names = [f'{index:012d}.png' for index in range(1, number + 1)]
            for folder in (split, f'annotations/panoptic_{split}', f'annotations/semantic_{split}'):
                assert sorted(path.name for path in (root / folder).iterdir()) == names

    def test_drawn_once(self, tmp_path):
        root = small(tmp_path / 'shapes')
        before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
        (root / 'notes.txt').write_text('mine')  # a complete data set may be kept in company

        def fail(done, total):
            raise AssertionError('drew again')

        assert small(str(root), progress=fail) == root
        assert {path: path.stat().st_mtime_ns for path in before if path != root} == {
            path: time for path, time in before.items() if path != root
        }

    @pytest.mark.parametrize('change', [{'seed': 1}, {'num_train': 1}, {'num_val': 2}, {'size': (64, 64)}])
    def test_other_arguments_draw_anew(self, tmp_path, change):
        small(tmp_path / 'shapes')
        assert hashes(small(tmp_path / 'shapes', **change)) == hashes(small(tmp_path / 'new', **change))
        assert {path.name for path in tmp_path.iterdir()} == {'shapes', 'new'}

    def test_other_format_or_missing_part_draws_anew(self, tmp_path, monkeypatch):
        root = small(tmp_path / 'shapes')
        expected = hashes(root)
        shutil.rmtree(root / 'annotations/semantic_val2017')
        assert hashes(small(root)) == expected
        monkeypatch.setattr(shapes, 'FORMAT', shapes.FORMAT + 1)
        small(root)
        assert json.loads((root / shapes.STAMP).read_text())['format'] == shapes.FORMAT

    @pytest.mark.parametrize('content', ['file.txt', 'train2017/a.jpg', f'{shapes.STAMP}'])
    def test_foreign_folder_is_refused(self, tmp_path, content):
        path = tmp_path / 'mine' / content
        path.parent.mkdir(parents=True)
        path.write_text('{}')
        with pytest.raises(ValueError, match='mine.*name another folder'):
            small(tmp_path / 'mine')
        assert [p for p in tmp_path.rglob('*') if p.is_file()] == [path]

    def test_foreign_file_is_not_deleted(self, tmp_path):
        root = small(tmp_path / 'shapes')
        (root / 'annotations/mine.json').write_text('{}')
        before = hashes(root)
        with pytest.raises(ValueError, match='annotations/mine.json'):
            small(root, seed=1)
        assert hashes(root) == before

    def test_file_in_place_of_folder_is_refused(self, tmp_path):
        (tmp_path / 'file').write_text('mine')
        with pytest.raises(ValueError, match='file'):
            small(tmp_path / 'file')
        assert (tmp_path / 'file').read_text() == 'mine'

    def test_empty_folder_missing_parents_and_link(self, tmp_path):
        (tmp_path / 'empty').mkdir()
        (tmp_path / 'link').symlink_to(tmp_path / 'empty')
        expected = hashes(small(tmp_path / 'a/b/shapes'))
        assert hashes(small(tmp_path / 'link')) == expected
        assert (tmp_path / 'link').is_symlink()
        assert hashes(tmp_path / 'empty') == expected

    @pytest.mark.parametrize('existing', [False, True])
    @pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
    def test_interruption_leaves_nothing(self, tmp_path, existing, error):
        if existing:
            small(tmp_path / 'shapes')
        before = hashes(tmp_path)

        def stop(done, total):
            if done == 2:
                raise error

        with pytest.raises(error):
            small(tmp_path / 'shapes', seed=1, progress=stop)
        assert hashes(tmp_path) == before
        assert [path.name for path in tmp_path.iterdir()] == ['shapes'] * existing

    @pytest.mark.parametrize('seeds', [(0, 0), (0, 1)])
    def test_started_twice_at_once(self, tmp_path, seeds):
        """Both draw before either publishes; the folder is then whole, whoever came last."""
        barrier = threading.Barrier(2)

        def meet(done, total):
            if done == total:
                barrier.wait(timeout=60)

        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(small, tmp_path / 'shapes', seed=seed, progress=meet) for seed in seeds]
        assert [job.result() for job in jobs] == [tmp_path / 'shapes'] * 2
        found = hashes(tmp_path / 'shapes')
        assert [path.name for path in tmp_path.iterdir()] == ['shapes']
        assert found in [hashes(small(tmp_path / f'alone{seed}', seed=seed)) for seed in set(seeds)]

    def test_progress(self, tmp_path):
        calls = []
        small(tmp_path / 'shapes', progress=lambda done, total: calls.append((done, total)))
        assert calls == [(1, 3), (2, 3), (3, 3)]

    @pytest.mark.parametrize(
        'bad',
        [{'num_train': 0}, {'num_val': 0}, {'seed': -1}, {'size': (63, 320)}, {'size': (320, 0)}, {'size': (64,)}],
    )
    def test_bad_arguments(self, tmp_path, bad):
        with pytest.raises(ValueError):
            small(tmp_path / 'shapes', **bad)
        assert not list(tmp_path.iterdir())


class TestAnnotations:
    def test_all_classes_and_sizes_occur(self, root, coco):
        areas = np.array([annotation['area'] for annotation in coco.anns.values()])
        assert {annotation['category_id'] for annotation in coco.anns.values()} == set(range(1, NUM_THINGS + 1))
        for low, high in ((0, 32**2), (32**2, 96**2), (96**2, np.inf)):  # small, medium, large of COCO
            assert ((low <= areas) & (areas < high)).sum() >= 10
        semantic = [np.unique(maps(root, 'train2017', image['file_name'])[1]) for image in coco.imgs.values()]
        assert set(np.concatenate(semantic)) == set(range(NUM_THINGS + len(shapes.STUFF_CLASSES)))

    @pytest.mark.parametrize('split', shapes.SPLITS)
    def test_ids_and_categories(self, root, split):
        instances, panoptic = (load(root, kind, split) for kind in ('instances', 'panoptic'))
        assert [image['id'] for image in instances['images']] == list(range(1, len(instances['images']) + 1))
        assert [record['id'] for record in instances['annotations']] == list(
            range(1, len(instances['annotations']) + 1)
        )
        assert [(c['id'], c['name']) for c in instances['categories']] == [*enumerate(shapes.THING_CLASSES, start=1)]
        assert panoptic['categories'] == shapes.categories()
        assert [c['id'] for c in shapes.categories()] == list(range(1, 13))
        assert [c['name'] for c in shapes.categories()] == [*shapes.THING_CLASSES, *shapes.STUFF_CLASSES]
        assert [c['isthing'] for c in shapes.categories()] == [1] * 8 + [0] * 4
        assert instances['images'] == panoptic['images']
        for image, record in zip(panoptic['images'], panoptic['annotations'], strict=True):
            assert (record['image_id'], record['file_name']) == (image['id'], image['file_name'])
            assert read(root / split / image['file_name']).shape == (image['height'], image['width'], 3)
        segments = [segment['id'] for record in panoptic['annotations'] for segment in record['segments_info']]
        assert len(set(segments)) == len(segments)

    @pytest.mark.parametrize('split', shapes.SPLITS)
    def test_three_kinds_agree(self, root, split):
        instances, panoptic = (load(root, kind, split) for kind in ('instances', 'panoptic'))
        by_image = {image['id']: [] for image in instances['images']}
        for annotation in instances['annotations']:
            by_image[annotation['image_id']].append(annotation)
        for record in panoptic['annotations']:
            ids, semantic = maps(root, split, record['file_name'])
            segments = {segment['id']: segment for segment in record['segments_info']}
            assert set(np.unique(ids)) == set(segments)  # so every pixel is in a segment and no segment is empty
            for segment in segments.values():
                mask = ids == segment['id']
                assert (semantic[mask] == segment['category_id'] - 1).all()
                assert segment['area'] == mask.sum()
                assert segment['bbox'] == box_of(mask)
                assert segment['iscrowd'] == 0
            stuff = [s['category_id'] for s in segments.values() if s['category_id'] > NUM_THINGS]
            assert len(set(stuff)) == len(stuff)  # one segment per kind of stuff
            things = {key for key, segment in segments.items() if segment['category_id'] <= NUM_THINGS}
            assert {annotation['id'] for annotation in by_image[record['image_id']]} == things
            for annotation in by_image[record['image_id']]:
                # Equal to the segments, which are disjoint by nature: so visible masks do not overlap.
                mask = codec.decode(annotation['segmentation'])
                np.testing.assert_array_equal(mask, ids == annotation['id'])
                shared = ('id', 'category_id', 'bbox', 'area', 'iscrowd')
                assert [annotation[key] for key in shared] == [segments[annotation['id']][key] for key in shared]
                assert codec.area(annotation['segmentation']) == annotation['area']
                assert codec.toBbox(annotation['segmentation']).tolist() == annotation['bbox']

    def test_annotations_are_of_the_drawn_sample(self, root):
        """Catches a channel or axis mix-up that all files would share."""
        sample = shapes.draw(np.random.default_rng([0, 1, 0]))
        ids, semantic = maps(root, 'val2017', '000000000001.png')
        np.testing.assert_array_equal(read(root / 'val2017/000000000001.png'), sample.image)
        expected = np.where(sample.instances > 0, sample.labels[sample.instances.astype(int) - 1], 8 + sample.stuff)
        np.testing.assert_array_equal(semantic, expected)
        np.testing.assert_array_equal(np.where(ids < 2**23, ids, 0), sample.instances)

    def test_pycocotools(self, root, coco):
        assert len(coco.getImgIds()) == NUM_TRAIN
        annotation = coco.loadAnns(coco.getAnnIds(imgIds=[1]))[0]
        assert coco.annToMask(annotation).sum() == annotation['area']
        loaded = coco.loadRes([{**a, 'score': 1.0} for a in load(root, 'instances', 'train2017')['annotations']])
        assert len(loaded.anns) == len(coco.anns)

    def test_mmdet_instances(self, root, coco):
        from mmdet.datasets import CocoDataset

        dataset = CocoDataset(
            data_root=str(root),
            ann_file='annotations/instances_train2017.json',
            data_prefix={'img': 'train2017/'},
            metainfo={'classes': shapes.THING_CLASSES},
            filter_cfg={'filter_empty_gt': True, 'min_size': 32},
        )
        assert len(dataset) == NUM_TRAIN
        for index in range(NUM_TRAIN):
            item = dataset.get_data_info(index)
            assert Path(item['img_path']).is_file()
            expected = coco.imgToAnns[item['img_id']]
            assert [i['bbox_label'] for i in item['instances']] == [a['category_id'] - 1 for a in expected]
            assert all(i['mask'] == a['segmentation'] for i, a in zip(item['instances'], expected, strict=True))

    def test_mmdet_panoptic(self, root):
        from mmdet.datasets import CocoPanopticDataset

        dataset = CocoPanopticDataset(
            data_root=str(root),
            ann_file='annotations/panoptic_val2017.json',
            data_prefix={'img': 'val2017/', 'seg': 'annotations/panoptic_val2017/'},
            metainfo={
                'classes': shapes.THING_CLASSES + shapes.STUFF_CLASSES,
                'thing_classes': shapes.THING_CLASSES,
                'stuff_classes': shapes.STUFF_CLASSES,
            },
        )
        assert len(dataset) == NUM_VAL
        for index, record in enumerate(load(root, 'panoptic', 'val2017')['annotations']):
            item = dataset.get_data_info(index)
            assert Path(item['img_path']).is_file()
            assert Path(item['seg_map_path']).is_file()
            assert [(s['id'], s['category'], s['is_thing']) for s in item['segments_info']] == [
                (s['id'], s['category_id'] - 1, s['category_id'] <= NUM_THINGS) for s in record['segments_info']
            ]


def test_import_is_cheap():
    """The module itself loads neither OpenCV nor pycocotools; the package around it may."""
    code = (
        'import importlib.util, sys\n'
        f'spec = importlib.util.spec_from_file_location("shapes", {shapes.__file__!r})\n'
        'module = sys.modules["shapes"] = importlib.util.module_from_spec(spec)\n'
        'spec.loader.exec_module(module)\n'
        'assert not {"cv2", "pycocotools", "torch", "mmdet"} & set(sys.modules)\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
