"""Fixtures: small networks, batches and trained models to export."""

import numpy as np
import pytest
import torch
from torch import nn

from repvit_dense.exporting.graphs.base import Graph


class PixelClasses(Graph):
    """A graph that returns the class of each pixel from the logits of any network."""

    task = 'semantic'

    def forward(self, images, img_hw):
        return (self.model(images).argmax(1).int(),)


@pytest.fixture(scope='session')
def pixel_classes():
    """Return `pixel_classes(network)`, which builds a semantic graph."""
    return lambda network: PixelClasses(network.eval()).eval()


@pytest.fixture(scope='session')
def batches():
    """Return eight batches of one preprocessed image, for calibration and comparison."""
    random = np.random.default_rng(0)
    return [(random.standard_normal((1, 3, 64, 64), np.float32), np.array([[64, 64]], np.float32)) for _ in range(8)]


@pytest.fixture(scope='session')
def agreement(batches):
    """Return `agreement(graph, run)`, the share of equal values over all batches."""

    def share(graph, run):
        with torch.no_grad():
            pairs = [(graph(*map(torch.from_numpy, batch))[0].numpy(), run(*batch)) for batch in batches]
        return np.mean([reference == other for reference, other in pairs])

    return share


@torch.no_grad()
def _balance_classes(model, cfg):
    """Randomise the last layer and centre its logits; otherwise one class wins everywhere."""
    from repvit_dense.artifact import preprocess
    from repvit_dense.exporting import samples

    layer = model.decode_head.conv_seg
    nn.init.normal_(layer.weight)
    ((images, _),) = samples.make_batches(samples.drawn_images(1), preprocess.from_config(cfg), [(1, (64, 96))])
    logits = model.decode_head(model.extract_feat(torch.from_numpy(images)))
    layer.bias -= logits.mean((0, 2, 3))
    assert len(model.decode_head(model.extract_feat(torch.from_numpy(images))).argmax(1).unique()) > 3


@pytest.fixture
def trained(tmp_path, tiny_arch, randomize_bn):
    """Return config and checkpoint of a tiny segmentor, whose data set does not exist."""
    from repvit_dense import config
    from repvit_dense.model import build_model

    cfg = config.load('repvit_segformer_shapes')
    cfg.model.backbone.arch = tiny_arch
    cfg.model.decode_head.update(in_channels=list(tiny_arch['embed_dims']), channels=16)
    for split in ('train', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(tmp_path / 'no-data')
    model = randomize_bn(build_model(cfg))
    _balance_classes(model, cfg)
    meta = {'provenance': {'seed': 0}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, tmp_path / 'trained.pth')
    return cfg, str(tmp_path / 'trained.pth')


@pytest.fixture
def out(tmp_path):
    """Return the output folder of `export`; it does not exist yet."""
    return tmp_path / 'exported'


@pytest.fixture
def export(trained, out):
    """Return `export(to, **settings)`, which exports `trained` to `out` at 64x96 pixels."""
    from repvit_dense.exporting.export import export_all
    from repvit_dense.exporting.settings import ExportSettings

    def run(to, **settings):
        return export_all(*trained, ExportSettings(to=to, out=out, **{'size': (64, 96), **settings}))

    return run
