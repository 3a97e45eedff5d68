"""Results in the pixels of the image: against what mmdet, mmseg and torch make of the same tensors."""

import subprocess
import sys
import textwrap

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch.nn import functional as F

from repvit_dense.artifact import predictor as module
from repvit_dense.artifact import preprocess
from repvit_dense.artifact.predictor import Predictor, paste, read
from repvit_dense.errors import InputError

SIZES = [(97, 131), (64, 96), (200, 40), (33, 250)]


def logits_of_masks(*shape, seed=0):
    """Smooth masks, neither nearly all inside nor nearly all outside; far from 0 as trained networks give them."""
    noise = torch.rand(1, shape[0], 5, 5, generator=torch.Generator().manual_seed(seed)) * 80 - 40
    return F.interpolate(noise, size=shape[1:], mode='bilinear')[0].numpy()


def probabilities(*shape, seed=0):
    return 1 / (1 + np.exp(-logits_of_masks(*shape, seed=seed) / 7))


def patches(count, seed=0):
    """Logits of masks `(count, 16, 16)`, each high around one place of a grid; some share it."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.divmod(rng.integers(0, 12, count), 4), -1) * [5, 4] + rng.uniform(0, 3, (count, 2))
    grid = np.stack(np.mgrid[:16, :16], -1)
    distance = np.linalg.norm(grid - places[:, None, None], axis=-1)
    return (-2 * (distance - 3)).astype(np.float32)


# --- every task -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('height, width', SIZES)
def test_boxes_are_in_pixels_of_the_image(artifact, image, height, width):
    found = Predictor(artifact('detection'))(image(height, width))
    shares = [[0.1, 0.2, 0.6, 0.7], [0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 0.3, 0.9]]
    assert found['boxes'] == pytest.approx(np.array(shares) * [width, height, width, height], rel=1e-4)
    assert found['scores'] == pytest.approx([0.9, 0.6, 0.4])
    assert found['labels'].tolist() == [1, 0, 2]
    assert found.keys() == {'boxes', 'scores', 'labels'}


@pytest.mark.parametrize('kind', ['roi', 'image'])
def test_masks_have_the_size_of_the_image(artifact, image, kind):
    found = Predictor(artifact(kind))(image(97, 131))
    assert found['masks'].shape == (3, 97, 131)
    assert found['masks'].dtype == bool
    assert found['masks'].any((1, 2)).all()


@pytest.mark.parametrize('size', [(97, 131), (192, 256), (70, 70)])
def test_a_class_map_has_the_size_of_the_image(artifact, image, size):
    """The network's answer where it was asked at this size; elsewhere the class whose mask, enlarged, is strongest."""
    pixels = image(*size)
    folder = artifact('semantic')
    how = Predictor(folder).manifest.preprocess
    tensor, (height, width) = preprocess.apply(pixels, how)
    seg = ((tensor[0] > 0).astype(int) + (tensor[1] > 0))[:height, :width]
    shares = F.one_hot(torch.from_numpy(seg)).movedim(2, 0)[None].float()
    expected = F.interpolate(shares, size, mode='bilinear')[0].argmax(0).numpy()
    found = Predictor(folder)(pixels)['seg']
    assert found.dtype == np.int32
    assert np.mean(found == expected) > 0.999  # where two are equally strong, rounding decides
    assert len(np.unique(found)) == 3


def test_segments_number_things_and_stuff(artifact, image):
    found = Predictor(artifact('panoptic'))(image(97, 131))
    assert found['segments'].shape == (97, 131)
    assert [part['number'] for part in found['segment_info']] == sorted({*found['segments'].ravel()} - {0})
    assert [(part['label'], part['is_thing']) for part in found['segment_info']] == [(1, True), (0, True)]


def test_a_fixed_input_size(artifact, image):
    """An image that is larger is made smaller; boxes are in its own pixels all the same."""
    fixed = {'images': [1, 3, 64, 64], 'img_hw': [1, 2]}
    predict = Predictor(artifact('roi', inputs=fixed))
    for size in [(97, 131), (64, 64), (20, 30)]:
        found = predict(image(*size))
        assert found['boxes'][0] == pytest.approx(np.array([0.1, 0.2, 0.6, 0.7]) * [*size[::-1], *size[::-1]], rel=1e-4)
        assert found['masks'].shape[1:] == size


@pytest.mark.parametrize('batch', ['batch', 1, 2, 3])
def test_a_list_gives_what_its_images_give(artifact, image, batch):
    predict = Predictor(artifact('image', inputs={'images': [batch, 3, 'h', 'w'], 'img_hw': [batch, 2]}))
    images = [image(*size, seed=seed) for seed, size in enumerate([*SIZES, (97, 131)])]
    for found, pixels in zip(predict(images), images, strict=True):
        one = predict(pixels)
        assert found.keys() == one.keys()
        for name, value in one.items():
            assert np.mean(found[name] == value) > 0.999  # padding to the same size moves a pixel at the border


def test_nothing_found(artifact, image, monkeypatch):
    predict = Predictor(artifact('roi'))
    run = predict._run
    monkeypatch.setattr(predict, '_run', lambda *inputs: run(*inputs) | {'count': np.zeros(1, np.int32)})
    found = predict(image(50, 60))
    assert found['boxes'].shape == (0, 4)
    assert found['masks'].shape == (0, 50, 60)


# --- masks, against mmdet ---------------------------------------------------------------------------------------------


def test_masks_of_boxes_are_pasted_as_in_mmdet():
    """Boxes that end anywhere in the image, the whole of it, thin ones, and some without any size."""
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead

    image_hw = (97, 131)
    corners = np.random.default_rng(0).uniform(-20, 150, (30, 2, 2))
    drawn = np.concatenate([corners.min(1), corners.max(1)], 1).clip(0, [131, 97, 131, 97])
    special = [[0, 0, 131, 97], [10.5, 10.5, 11, 60], [20, 20, 20, 40], [5.3, 5, 5.3, 5]]
    boxes = np.concatenate([drawn, special]).astype(np.float32)
    masks = probabilities(len(boxes), 28, 28)
    results = InstanceData(bboxes=torch.from_numpy(boxes.copy()), labels=torch.zeros(len(boxes), dtype=torch.long))
    (expected,) = FCNMaskHead(num_convs=0, in_channels=1, conv_out_channels=1, num_classes=1).predict_by_feat(
        [torch.from_numpy(masks).logit()[:, None]],
        [results],
        [{'ori_shape': image_hw, 'scale_factor': (1.0, 1.0)}],
        ConfigDict(mask_thr_binary=0.5),
        rescale=True,
    )
    found = paste(masks, boxes, image_hw, 0.5)
    assert (found != expected.masks.numpy()).sum() <= 3  # ties at the threshold
    assert found.any((1, 2)).sum() > 25


@pytest.mark.parametrize(
    'box', [[0, 0, np.nan, 5], [0, 0, np.inf, 5], [300, 300, 310, 320], [-50, -9, -5, -2], [0, 4, 9, -4]]
)
def test_a_box_that_is_nowhere_has_no_mask(box):
    assert not paste(np.ones((1, 28, 28), np.float32), np.array([box], np.float32), (9, 9), 0.5).any()


@pytest.mark.parametrize('source, target', [((40, 40), (160, 160)), ((160, 160), (97, 131)), ((7, 9), (200, 31))])
def test_opencv_resizes_as_torch_does(source, target):
    masks = probabilities(3, *source)
    expected = F.interpolate(torch.from_numpy(masks)[None], target, mode='bilinear', align_corners=False)[0].numpy()
    for mask, wanted in zip(masks, expected, strict=True):
        found = cv2.resize(mask, target[::-1], interpolation=cv2.INTER_LINEAR)
        assert found == pytest.approx(wanted, abs=1e-5)


def image_masks(masks, options, true_hw, batch_hw, image_hw, scale=None, scores=None):
    canvas = module._canvas(batch_hw, scale) if scale else None
    enlarged = (module._enlarge(mask, true_hw, batch_hw, image_hw, canvas) for mask in masks)
    scores = np.ones(len(masks), np.float32) if scores is None else scores
    return module._instances({'scores': scores, 'index': np.arange(len(masks))}, enlarged, image_hw, options)


def rtmdet_masks(logits, batch_hw, image_hw, scale_factor, kernels=None):
    """What mmdet's head makes of mask logits on the grid of stride 8."""
    from mmdet.models.dense_heads import RTMDetInsHead

    head = RTMDetInsHead.__new__(RTMDetInsHead)
    torch.nn.Module.__init__(head)
    head.prior_generator = type('Generator', (), {'strides': [(8, 8)]})()
    head._mask_predict_by_feat_single = lambda feature, kernels, priors: logits[kernels[:, 0].long()]
    count = len(logits)
    results = InstanceData(
        bboxes=torch.tensor([[0.0, 0, 9, 9]]).repeat(count, 1) + 50 * torch.arange(count)[:, None],
        scores=torch.linspace(0.9, 0.5, count),
        labels=torch.zeros(count, dtype=torch.long),
        kernels=torch.arange(count)[:, None].float(),
        priors=torch.zeros(count, 4),
    )
    cfg = ConfigDict(min_bbox_size=-1, nms={'type': 'nms', 'iou_threshold': 0.6}, max_per_img=100, mask_thr_binary=0.5)
    meta = {'scale_factor': scale_factor, 'ori_shape': image_hw}
    return head._bbox_mask_post_process(results, None, cfg, rescale=True, img_meta=meta).masks.numpy()


@pytest.mark.parametrize('image_hw', [(97, 131), (300, 401), (333, 100), (160, 160)])
def test_masks_of_images_as_in_rtmdet(image_hw):
    how = {'scale': [160, 160], 'keep_ratio': True, 'multiple': None, 'pad_to': [160, 160], 'divisor': 32}
    steps = preprocess.geometry(image_hw, how)
    masks = logits_of_masks(5, 20, 20)
    scale = (steps.scaled[1] / image_hw[1], steps.scaled[0] / image_hw[0])
    expected = rtmdet_masks(torch.from_numpy(masks), steps.batch, image_hw, scale)
    found = image_masks(masks, {'mask_thr': 0.5}, steps.resized, steps.batch, image_hw, scale[::-1])['masks']
    assert found.shape == expected.shape
    assert np.mean(found != expected) < 1e-4
    assert 0.2 < found.mean() < 0.8


@pytest.fixture
def fusion():
    """`fusion(**test_cfg)`: mmdet's head that merges; two things and three kinds of stuff."""
    from mmdet.models.seg_heads import MaskFormerFusionHead

    def make(**test_cfg):
        return MaskFormerFusionHead(num_things_classes=2, num_stuff_classes=3, test_cfg=ConfigDict(test_cfg))

    return make


def query_logits(scores, labels, num_classes=5):
    """Class logits whose softmax is the score for the label; the rest goes to 'no object'."""
    share = torch.zeros(len(scores), num_classes + 1)
    share[torch.arange(len(scores)), labels] = scores
    share[:, -1] += 1 - scores
    return share.clamp(min=1e-9).log()


@pytest.mark.parametrize('image_hw', [(97, 131), (64, 64), (130, 77)])
def test_masks_of_images_as_in_mask2former(fusion, image_hw):
    """Cut to the true size, then stretched; boxes around what is left."""
    true_hw, batch_hw, masks = (60, 50), (64, 64), logits_of_masks(6, 16, 16)
    masks[-1] = -9  # an empty one
    logits = F.interpolate(torch.from_numpy(masks)[None], batch_hw, mode='bilinear', align_corners=False)
    scores, labels = torch.linspace(0.9, 0.6, 6), torch.tensor([0, 1, 0, 1, 0, 1])
    meta = type('Sample', (), {'metainfo': {'img_shape': true_hw, 'ori_shape': image_hw}})
    head = fusion(panoptic_on=False, instance_on=True, max_per_image=6)
    (result,) = head.predict(query_logits(scores, labels)[None], logits, [meta], rescale=True)
    expected = result['ins_results']
    options = {'mask_thr': 0.5, 'boxes_from_masks': True, 'scores_from_masks': True}
    found = image_masks(masks, options, true_hw, batch_hw, image_hw, scores=scores.numpy())
    order = np.argsort(-expected.scores.numpy())
    assert found['scores'] == pytest.approx(expected.scores.numpy()[order], abs=1e-4)
    assert np.mean(found['masks'] != expected.masks.numpy()[order]) < 1e-3
    assert np.abs(found['boxes'] - expected.bboxes.numpy()[order]).max() <= 1
    assert labels.numpy()[found['index']].tolist() == expected.labels.numpy()[order].tolist()


@pytest.mark.parametrize('filter_low_score', [True, False])
@pytest.mark.parametrize('iou_thr', [0.3, 0.8])
@pytest.mark.parametrize('seed', range(3))
def test_queries_are_merged_as_in_mask2former(fusion, seed, iou_thr, filter_low_score):
    generator = torch.Generator().manual_seed(seed)
    true_hw, batch_hw, image_hw = (60, 50), (64, 64), (97, 131)
    masks = patches(20, seed)
    scores = (torch.rand(20, generator=generator) * 0.5 + 0.5).sort(descending=True).values
    labels = torch.randint(0, 6, (20,), generator=generator)  # 5 is 'no object'
    logits = F.interpolate(torch.from_numpy(masks)[None], batch_hw, mode='bilinear', align_corners=False)
    meta = type('Sample', (), {'metainfo': {'img_shape': true_hw, 'ori_shape': image_hw}})
    options = {'object_mask_thr': 0.6, 'iou_thr': iou_thr, 'filter_low_score': filter_low_score, 'num_things': 2}
    head = fusion(**{name: value for name, value in options.items() if name != 'num_things'}, instance_on=False)
    (result,) = head.predict(query_logits(scores, labels)[None], logits, [meta], rescale=True)
    expected = result['pan_results'].sem_seg[0].numpy()

    outputs = {'scores': scores.numpy(), 'labels': labels.int().numpy(), 'masks': masks}
    found = module._merge(outputs, options, 5, true_hw, batch_hw, image_hw)
    numbers = found['segments']
    by_number = {part['number']: part for part in found['segment_info']}
    assert len(by_number) > 1
    assert sorted({*numbers.ravel()} - {0}) == sorted(by_number)
    ids = {0: 5}
    things = 0
    for number, part in by_number.items():
        things += part['is_thing']
        ids[number] = part['label'] + (1000 * things if part['is_thing'] else 0)
    own = np.vectorize(ids.get)(numbers)
    assert np.mean(own % 1000 != expected % 1000) < 1e-3
    # Things may be numbered otherwise; each must be the same pixels.
    for theirs in {*expected[expected >= 1000].ravel()}:
        mask = expected == theirs
        ours = np.bincount(numbers[mask]).argmax()
        assert ((numbers == ours) & mask).sum() / ((numbers == ours) | mask).sum() > 0.99


def test_no_query_passes(fusion):
    outputs = {'scores': np.array([0.1], np.float32), 'labels': np.array([0]), 'masks': logits_of_masks(1, 8, 8)}
    options = {'object_mask_thr': 0.8, 'iou_thr': 0.8, 'filter_low_score': True, 'num_things': 2}
    found = module._merge(outputs, options, 5, (32, 32), (32, 32), (40, 50))
    assert found['segment_info'] == []
    assert not found['segments'].any()
    assert found['segments'].shape == (40, 50)


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def encode(suffix, pixels):
    return cv2.imencode(suffix, pixels)[1].tobytes()


@pytest.mark.parametrize('kind', ['detection', 'roi', 'image', 'panoptic', 'semantic'])
@pytest.mark.parametrize('size', [(1, 1), (20000, 10), (10, 20000), (1, 300)])
def test_images_of_unusual_shape(artifact, kind, size):
    found = Predictor(artifact(kind))(np.full((*size, 3), 90, np.uint8))
    for name in ('masks', 'seg', 'segments'):
        if name in found:
            assert found[name].shape[-2:] == size
    if 'boxes' in found:
        assert found['boxes'].max(0) == pytest.approx([size[1] / 2, size[0] / 2, size[1], size[0]], rel=1e-3)


@pytest.mark.parametrize(
    'make',
    [
        lambda grey: encode('.png', grey),
        lambda grey: encode('.png', cv2.merge([grey, grey, grey])),
        lambda grey: encode('.png', cv2.merge([grey, grey, grey, 255 - grey])),
        lambda grey: encode('.png', grey.astype(np.uint16) * 257),
        lambda grey: encode('.tiff', cv2.merge([grey.astype(np.uint16) * 257] * 3)),
    ],
    ids=['grey', 'colour', 'RGBA', 'grey 16 bit', 'colour 16 bit'],
)
def test_files_of_every_kind(write, image, make):
    grey = image(40, 50)[..., 0]
    found = read(write('x.img', make(grey)))
    assert found.dtype == np.uint8
    assert np.array_equal(found, cv2.merge([grey] * 3))


def test_a_jpeg_in_cmyk(tmp_path, image):
    from PIL import Image

    pixels = image(64, 80)
    Image.fromarray(pixels[..., ::-1]).convert('CMYK').save(tmp_path / 'x.jpg', quality=95)
    assert np.abs(read(tmp_path / 'x.jpg').astype(int) - pixels).mean() < 6


@pytest.mark.parametrize('transform', [lambda a: a[..., 0], lambda a: a[..., :1], lambda a: a.astype(np.uint16) * 257])
def test_arrays_of_every_kind(image, transform):
    grey = cv2.merge([image(40, 50)[..., 0]] * 3)
    assert np.array_equal(read(transform(grey)), grey)


def test_alpha_is_dropped(image):
    pixels = image(40, 50)
    assert np.array_equal(read(np.dstack([pixels, pixels[..., :1]])), pixels)


@pytest.mark.parametrize(
    'thing',
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(5, np.uint8),
        None,
        3,
        'x\0.jpg',
    ],
)
def test_what_is_no_image(thing):
    with pytest.raises(InputError, match='an image must be|not an image'):
        read(thing)


@pytest.mark.parametrize('keep', [0.02, 0.5, 0.9, 0.999])
@pytest.mark.parametrize('suffix, options', [('.jpg', []), ('.jpg', [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]), ('.png', [])])
def test_a_file_that_was_cut_short(write, image, suffix, options, keep):
    content = cv2.imencode(suffix, image(300, 400), options)[1].tobytes()
    assert read(write(f'whole{suffix}', content)).shape == (300, 400, 3)
    path = write(f'cut{suffix}', content[: int(len(content) * keep)])
    with pytest.raises(InputError, match=f'{path}: not an image that can be read'):
        read(path)


def test_a_jpeg_with_more_behind_its_end(write, image):
    assert read(write('x.jpg', encode('.jpg', image(30, 40)) + b'more')).shape == (30, 40, 3)


@pytest.mark.parametrize('content', [b'', b'hello', b'<html></html>' * 100], ids=['empty', 'text', 'html'])
def test_other_files(write, content):
    with pytest.raises(InputError, match='x.jpg: not an image that can be read'):
        read(write('x.jpg', content))


def test_no_file(tmp_path):
    for path in (tmp_path / 'none.jpg', tmp_path):
        with pytest.raises(InputError, match='not an image that can be read'):
            read(path)


def test_in_a_list_the_others_go_on(artifact, image, write):
    predict = Predictor(artifact('detection', inputs={'images': [2, 3, 'h', 'w'], 'img_hw': [2, 2]}))
    bad = write('notes.jpg', b'hello')
    found = predict([image(40, 50), str(bad), bad, image(30, 40), np.zeros(3)])
    assert [isinstance(part, InputError) for part in found] == [False, True, True, False, True]
    assert found[3]['boxes'][1] == pytest.approx([20, 15, 40, 30], rel=1e-4)
    with pytest.raises(InputError, match='notes.jpg'):
        predict(bad)


# --- alone ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['roi', 'panoptic'])
def test_it_runs_where_torch_and_openmmlab_are_missing(artifact, image, tmp_path, kind):
    """And it imports little else; that is what its start takes."""
    cv2.imwrite(str(tmp_path / 'x.png'), image(60, 70))
    code = """
        import sys

        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name in ('torch', 'torchvision', 'timm', 'mmcv', 'mmengine', 'mmdet', 'mmseg', 'matplotlib'):
                    raise ImportError(name)

        sys.meta_path.insert(0, Missing())
        from repvit_dense.artifact.predictor import Predictor
        found = Predictor(sys.argv[1], threads=1)(sys.argv[2])
        print(sorted(found))
        outside = {name.partition('.')[0] for name, value in sys.modules.items() if value} - sys.stdlib_module_names
        print(sorted(name for name in outside if not name.startswith('_')))
    """
    command = [sys.executable, '-c', textwrap.dedent(code), str(artifact(kind)), str(tmp_path / 'x.png')]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names, outside = map(eval, done.stdout.splitlines())
    assert names == sorted(Predictor(artifact(kind))(image(60, 70)))
    assert set(outside) <= {'repvit_dense', 'numpy', 'cv2', 'onnxruntime'}
    assert done.stderr == ''
