"""Fixtures that several test files share."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_dense.artifact.manifest import Manifest

TINY = {'embed_dims': (8, 16, 24, 32), 'depths': (1, 2, 1, 2)}


@torch.no_grad()
def _randomize_bn(module, generator=None):
    for bn in module.modules():
        if not isinstance(bn, _BatchNorm):
            continue
        bn.running_mean.uniform_(-0.2, 0.2, generator=generator)
        bn.running_var.uniform_(0.5, 1.5, generator=generator)
        if bn.affine:
            bn.weight.uniform_(0.3, 0.7, generator=generator)
            bn.bias.uniform_(-0.2, 0.2, generator=generator)
    return module


@pytest.fixture
def tiny_arch():
    """Return the smallest RepViT that has every kind of block."""
    return dict(TINY)


@pytest.fixture(scope='session')
def randomize_bn():
    """Return `randomize_bn(module, generator=None)`, which draws all batch-norm tensors and returns the module.

    Zero weights and unit variances of a new network would hide errors.
    """
    return _randomize_bn


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def tiny(tiny_arch, randomize_bn):
    """Return a tiny backbone in eval mode whose batch norms are not the identity."""
    from repvit_dense.backbones import RepViT

    return randomize_bn(RepViT(tiny_arch)).eval()


# --- the command line ---


@pytest.fixture
def refuse(capsys, tmp_path, monkeypatch):
    """Return `refuse(command, *arguments)`, the error output of a command that must end with exit code 2."""
    monkeypatch.chdir(tmp_path)

    def call(command, *arguments):
        with pytest.raises(SystemExit) as ended:
            from repvit_dense import cli

            cli.main(command, [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert ended.value.code == 2, captured
        assert 'Traceback' not in captured.out + captured.err
        return captured.err

    return call


@pytest.fixture
def refuse_in_a_line(refuse):
    """Return a variant of `refuse` for errors of the command itself: one line."""

    def call(command, *arguments):
        lines = [line for line in refuse(command, *arguments).splitlines() if not line.startswith('loading PyTorch')]
        assert len(lines) == 1, lines
        assert lines[0].startswith('error: ')
        return lines[0]

    return call


# --- artifacts so small that their results can be worked out by hand; one per task ---

CLASSES = ['cat', 'dog', 'sky']
PREPROCESS = {
    'scale': [128, 96],
    'keep_ratio': True,
    'multiple': None,
    'pad_to': None,
    'pad_colour': None,
    'mean': [120.0, 110.0, 100.0],
    'std': [60.0, 55.0, 50.0],
    'pad_value': 0.0,
    'divisor': 32,
}
# Boxes as shares of the true width and height, by falling score; the last is padding.
BOXES = [[0.1, 0.2, 0.6, 0.7], [0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 0.3, 0.9], [0.0] * 4]
SCORES, LABELS, COUNT = [0.9, 0.6, 0.4, 0.0], [1, 0, 2, 0], 3
KINDS = {
    'detection': ('detection', None, ['boxes', 'scores', 'labels', 'count'], {}),
    'roi': ('instance', 'roi', ['boxes', 'scores', 'labels', 'masks', 'count'], {'mask_thr': 0.5}),
    'image': ('instance', 'image', ['boxes', 'scores', 'labels', 'masks', 'count'], {'mask_thr': 0.5}),
    'panoptic': (
        'panoptic',
        'image',
        ['scores', 'labels', 'masks', 'count'],
        {'object_mask_thr': 0.5, 'iou_thr': 0.1, 'filter_low_score': True, 'num_things': 2},
    ),
    'semantic': ('semantic', None, ['seg'], {}),
}


class Tiny(nn.Module):
    """Boxes at fixed places, masks and segments by the brightness of the image's channels."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.register_buffer('shares', torch.tensor(BOXES))
        self.register_buffer('base', torch.tensor(SCORES))
        self.register_buffer('names', torch.tensor(LABELS, dtype=torch.int32))
        noise = torch.rand(1, 4, 7, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1
        smooth = F.interpolate(noise, size=(28, 28), mode='bilinear', align_corners=False)
        self.register_buffer('blobs', (4 * smooth).sigmoid())

    def forward(self, images, img_hw):
        if self.kind == 'semantic':
            return ((images[:, 0] > 0).int() + (images[:, 1] > 0).int(),)
        rows = images.mean((1, 2, 3), keepdim=True)[..., 0] * 0  # (B, 1, 1)
        boxes = self.shares * img_hw.flip(1).repeat(1, 2)[:, None]
        scores = self.base + rows[:, 0]
        labels = self.names + scores.int() * 0
        count = (scores > 0.1).sum(1).int()
        coarse = F.avg_pool2d(images, 4)
        masks = torch.stack([coarse[:, 0], coarse[:, 1], -coarse[:, 0], coarse[:, 2]], 1)
        if self.kind == 'roi':
            masks = self.blobs + rows[..., None]
        if self.kind == 'panoptic':
            return scores, labels, masks, count
        return (boxes, scores, labels, count) if self.kind == 'detection' else (boxes, scores, labels, masks, count)


@pytest.fixture(scope='session')
def tiny_onnx():
    """Return `tiny_onnx(kind)`, the bytes of the ONNX file; batch and size are open."""
    cache = {}

    def export(kind):
        if kind not in cache:
            batch, (height, width) = torch.export.Dim('batch'), (32 * torch.export.Dim(name) for name in 'hw')
            program = torch.onnx.export(
                Tiny(kind).eval(),
                (torch.rand(2, 3, 64, 96), torch.tensor([[64.0, 96.0]] * 2)),
                dynamo=True,
                opset_version=20,
                input_names=['images', 'img_hw'],
                output_names=KINDS[kind][2],
                dynamic_shapes=({0: batch, 2: height, 3: width}, {0: batch}),
                verbose=False,
            )
            cache[kind] = program.model_proto.SerializeToString()
        return cache[kind]

    return export


@pytest.fixture
def a_manifest():
    """Return `a_manifest(kind, **changes)`, which describes the tiny model of this kind."""

    def make(kind='detection', preprocess=None, **changes):
        task, mask_kind, outputs, postprocess = KINDS[kind]
        fields = {
            'task': task,
            'target': 'onnx',
            'precision': 'fp32',
            'model': 'model.onnx',
            'classes': CLASSES,
            'palette': None,
            'preprocess': PREPROCESS | (preprocess or {}),
            'inputs': {'images': ['batch', 3, 'height', 'width'], 'img_hw': ['batch', 2]},
            'outputs': outputs,
            'mask_kind': mask_kind,
            'postprocess': postprocess,
            'config': None,
            'backbone': None,
            'tap': None,
            'checkpoint_sha256': None,
            'versions': {},
        }
        return Manifest(**fields | changes)

    return make


@pytest.fixture
def artifact(tiny_onnx, a_manifest, tmp_path):
    """Return `artifact(kind, preprocess=None, **changes)`, which writes the tiny model and its manifest to a folder."""

    def make(kind='detection', **changes):
        folder = tmp_path / f'artifact-{kind}'
        folder.mkdir(exist_ok=True)
        (folder / 'model.onnx').write_bytes(tiny_onnx(kind))
        a_manifest(kind, **changes).write(folder)
        return folder

    return make


@pytest.fixture
def image():
    """Return `image(height, width)`, which draws smooth colours, BGR uint8."""
    import cv2

    def make(height, width, seed=0):
        coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
        return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)

    return make


def pytest_collection_modifyitems(items):
    """Order the files, and leave tests that spend their time in torch out of the coverage, which would double it.

    Tests that fork run first: artifacts leave threads behind, with which a process does not fork safely. Files with
    slow tests are next, so that the workers finish at about the same time.
    """
    slow_files = {item.path for item in items if item.get_closest_marker('slow')}
    for item in items:
        if item.get_closest_marker('slow') or {'backbones', 'exporting'} & set(item.path.parts):
            item.add_marker('no_cover')

    def position(item):
        forks = 'engine' in item.path.parts or item.path.stem == 'test_annotations'
        return 0 if forks else 1 if item.path in slow_files else 2

    items.sort(key=position)
