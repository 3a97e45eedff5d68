"""Every extension point of CONTRIBUTING.md, used as it says there: one file, or one row of a table."""

import dataclasses
import inspect
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from repvit_dense import api, cli, config
from repvit_dense.options import option


@pytest.fixture
def registered():
    """Return a decorator that registers a class with OpenMMLab for the time of a test."""
    from mmengine.registry import MODELS

    names = []

    def register(cls):
        names.append(cls.__name__)
        return MODELS.register_module()(cls)

    yield register
    for name in names:
        MODELS.module_dict.pop(name)


@pytest.fixture
def dummy_backbone(registered, monkeypatch):
    """One file and one row: a backbone of strided convolutions, named `dummy`."""
    from repvit_dense import catalogue
    from repvit_dense.backbones.base import Peer

    channels = (8, 16, 24, 32)

    @registered
    class DenseDummy(Peer):
        def __init__(self, **options):
            super().__init__('dummy', **options)
            net = nn.ModuleDict({'stage1': nn.Conv2d(3, channels[0], 4, 4)})
            for stage in range(1, self.out_indices[-1] + 1):
                net[f'stage{stage + 1}'] = nn.Conv2d(channels[stage - 1], channels[stage], 2, 2)
            self.set_net(net, channels, {name: number for number, name in enumerate(net, 1)})

        def _features(self, images):
            features = []
            for layer in self.net.values():
                images = layer(images)
                features.append(images)
            return [features[index] for index in self.out_indices]

    row = catalogue.Backbone('dummy', 'DenseDummy', {}, channels, (4, 8, 16, 32), '', {}, '')
    monkeypatch.setitem(catalogue.BACKBONES, 'dummy', row)
    return channels


def test_a_backbone(dummy_backbone):
    from repvit_dense.model import build_model

    cfg = config.load('repvit_semfpn_shapes', backbone='dummy')
    model = build_model(cfg)
    assert cfg.model.neck.in_channels == list(dummy_backbone)
    assert 'dummy' in api.list_backbones('du*')
    features = model.backbone(torch.zeros(1, 3, 64, 64))
    assert [feature.shape[1] for feature in features] == list(dummy_backbone)


@pytest.fixture
def dummy_head(registered, monkeypatch):
    """One file and one row: the export graph of a model type of its own, named `DenseDummySegmentor`."""
    import mmseg.models  # noqa: F401  registers EncoderDecoder
    from mmseg.models import EncoderDecoder

    from repvit_dense.exporting import graphs
    from repvit_dense.exporting.graphs.base import Graph

    @registered
    class DenseDummySegmentor(EncoderDecoder):
        """A segmentor of another type."""

    class Dummy(Graph):
        task = 'semantic'

        def forward(self, images, img_hw):
            logits = self.model.encode_decode(images, [{'img_shape': tuple(images.shape[2:])}])
            return (logits.argmax(1).int(),)

    module = types.ModuleType(f'{graphs.__name__}.dummy')
    module.Dummy = Dummy
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(graphs.FAMILIES, 'DenseDummySegmentor', ('dummy', 'Dummy'))


def test_a_head(dummy_head):
    from repvit_dense.exporting import graphs
    from repvit_dense.model import build_model

    options = ['model.type=DenseDummySegmentor', 'model.backbone.init_cfg=None']
    model = build_model(config.load('repvit_segformer_shapes', options, backbone='repvit_m0_6'))
    (seg,) = graphs.build(model)(torch.zeros(1, 3, 64, 64), torch.tensor([[64.0, 64.0]]))
    assert seg.shape == (1, 64, 64)


@pytest.fixture
def dummy_layout(monkeypatch):
    """One file and one row: a layout for folders that contain `dummy.txt`, the names of the classes."""
    from repvit_dense.data import layouts
    from repvit_dense.data.source import Source, metainfo

    module = types.ModuleType('repvit_dense.data.layouts.dummy')
    module.TASKS, module.EXPECTED = ('detection',), 'dummy.txt (Dummy)'
    module.recognise = lambda root: (root / 'dummy.txt').is_file()

    def read(root, task, store):
        classes = tuple((root / 'dummy.txt').read_text().split())
        files = {'data_root': str(root), 'ann_file': 'all.json', 'data_prefix': {'img': ''}}
        return Source('CocoDataset', classes, len(classes), files, files, metainfo(classes))

    module.read = read
    monkeypatch.setattr(layouts, 'LAYOUTS', (module, *layouts.LAYOUTS))


def test_a_data_layout(dummy_layout, tmp_path):
    (tmp_path / 'dummy.txt').write_text('cat dog')
    cfg = config.load('repvit_retinanet_coco', data=str(tmp_path), work_dir=str(tmp_path / 'run'))
    assert cfg.train_dataloader.dataset.metainfo.classes == ('cat', 'dog')
    assert cfg.model.bbox_head.num_classes == 2


@pytest.fixture
def dummy_format(monkeypatch):
    """Two files and one row: a format that stores the pixel sum as text, named `dummy`."""
    from repvit_dense.artifact.targets import TARGETS, Target

    writer = types.ModuleType('repvit_dense.exporting.formats.dummy_format')
    writer.write = lambda graph, path, options: path.write_text('threshold 0')
    runtime = types.ModuleType('repvit_dense.artifact.runtimes.dummy_format')

    def load(path, manifest, threads):
        threshold = float(path.read_text().split()[1])
        return lambda images, img_hw: {'seg': (images.sum(1) > threshold).astype(np.int64)}

    runtime.load = load
    for module in (writer, runtime):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    row = Target('dummy_format', 'model.txt', ('fp32',), (), True, False, None, ())
    monkeypatch.setitem(TARGETS, 'dummy', row)


def test_an_export_format(dummy_format, tmp_path, a_manifest, image):
    from repvit_dense.artifact.predictor import Predictor
    from repvit_dense.exporting import formats
    from repvit_dense.exporting.graphs.base import Graph

    name = formats.write(Graph(nn.Identity()), tmp_path, 'dummy', formats.FileOptions(size=(96, 128)))
    a_manifest('semantic', target='dummy', model=name).write(tmp_path)
    result = Predictor(tmp_path)(image(97, 131))
    assert result.seg.shape == (97, 131)


@pytest.fixture
def dummy_option(monkeypatch):
    """One field: an option of `predict` that names the picture format."""
    from repvit_dense.commands import predict

    @dataclasses.dataclass
    class Options(predict.Options):
        _: dataclasses.KW_ONLY
        picture_format: str = option('jpg', choices=('jpg', 'png'), help='format of the pictures')

    monkeypatch.setattr(predict, 'Options', Options)
    return Options


def test_an_option_of_predict(dummy_option, monkeypatch, capsys):
    from repvit_dense.commands import predict

    received = []

    def run(options):
        """Predict images."""
        received.append(options)

    monkeypatch.setattr(predict, 'run', run)
    with pytest.raises(SystemExit) as ended:
        cli.main('predict', ['work_dir', 'a.jpg', '--picture-format', 'png'])
    assert ended.value.code == 0
    assert received[0].picture_format == 'png'
    with pytest.raises(SystemExit):
        cli.main('predict', ['--help'])
    assert 'format of the pictures (default: jpg)' in capsys.readouterr().out
    verb = api._verb(dummy_option, run)
    assert inspect.signature(verb).parameters['picture_format'].default == 'jpg'
    assert 'picture_format: format of the pictures' in verb.__doc__
