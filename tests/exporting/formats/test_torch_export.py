"""`.pt2` files, and the capture that all formats share."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from repvit_dense.errors import InputError
from repvit_dense.exporting.formats.torch_export import capture


@pytest.mark.parametrize('kind', ['semantic', 'detection'])
@pytest.mark.parametrize('dynamic', [(), ('batch',), ('size',), ('batch', 'size')])
def test_a_loaded_program_agrees_with_the_graph(graph, write, batch, close, kind, dynamic):
    model = graph(kind)
    program = torch.export.load(write(model, 'torch', dynamic=dynamic)).module()
    shapes = {(1, 64, 96)}
    if 'batch' in dynamic:
        shapes |= {(3, 64, 96)}
    if 'size' in dynamic:
        shapes |= {(1, 160, 128), (1, 96, 96)}
    for shape in shapes:
        inputs = batch(*shape)
        with torch.no_grad():
            close(model, inputs, program(*inputs))


def test_a_fixed_program_refuses_another_size(graph, write, batch):
    program = torch.export.load(write(graph('semantic'), 'torch')).module()
    with pytest.raises((AssertionError, RuntimeError)):
        program(*batch(1, 96, 96))


def test_a_batch_size_that_the_model_fixes_is_refused(graph):
    with pytest.raises(InputError, match='--dynamic batch'):
        capture(graph('fixed batch'), (64, 64), dynamic=('batch',))


RUN = """
import sys
import numpy as np
from repvit_dense.artifact import manifest, runtimes
folder = sys.argv[1]
assert not any(name.startswith('repvit_dense.exporting.graphs') for name in sys.modules)
inputs = np.load(f'{folder}/inputs.npz')
np.savez(f'{folder}/outputs.npz', **runtimes.load(folder, manifest.read(folder))(inputs['images'], inputs['img_hw']))
"""


@pytest.mark.deploy
@torch.no_grad()
def test_a_detector_runs_in_a_fresh_process(write, batch, a_manifest):
    """Run a program with the NMS operator of this package, which must be registered before the program is loaded."""
    from repvit_dense import config
    from repvit_dense.exporting import graphs
    from repvit_dense.model import build_model
    from repvit_dense.reparam import reparameterize_model

    torch.manual_seed(0)
    model = build_model(config.load('repvit_retinanet_coco', ['model.test_cfg.max_per_img=30'], 'repvit_m0_6'))
    images, img_hw = batch(1, 96, 128)
    layer, logits = model.bbox_head.retina_cls, model.bbox_head(model.extract_feat(images))[0][0]
    layer.weight.div_(logits.std())
    layer.bias.fill_(-2)
    graph = graphs.build(reparameterize_model(model))
    path = write(graph, 'torch', (96, 128))
    assert 'repvit_dense.nms' in str(torch.export.load(path).graph)
    shapes = {'images': [1, 3, 96, 128], 'img_hw': [1, 2]}
    a_manifest('detection', target='torch', model=path.name, inputs=shapes, outputs=list(graph.outputs)).write(
        path.parent
    )
    np.savez(path.parent / 'inputs.npz', images=images, img_hw=img_hw)
    subprocess.run([sys.executable, '-c', RUN, path.parent], check=True)
    outputs = np.load(path.parent / 'outputs.npz')
    expected = dict(zip(graph.outputs, graph(images, img_hw), strict=True))
    assert expected['count'] > 10
    for name, value in expected.items():
        torch.testing.assert_close(torch.from_numpy(outputs[name]), value, atol=1e-4, rtol=1e-5)
