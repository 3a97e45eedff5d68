"""Fixtures: small models with varied outputs, images of several sizes, exports and comparisons."""

import pytest
import torch
from torch.nn import functional as F

TINY = {'embed_dims': (8, 16, 24, 32), 'depths': (1, 2, 1, 2)}


@pytest.fixture(scope='session')
def build_model(randomize_bn):
    """Return `build_model(name, *options)`, which builds the unfused model of a config on a tiny backbone.

    Weights and batch norms are random. The model has its config as the attribute `cfg`.
    """
    from repvit_dense import config
    from repvit_dense.model import build_model

    def build(name, *options):
        torch.manual_seed(0)
        cfg = config.load(name)
        cfg.model.backbone.arch = dict(TINY)
        config.set_channels(cfg.model, [TINY['embed_dims'][i] for i in cfg.model.backbone.out_indices])
        for option in options:
            config.apply_option(cfg, option)
        model = randomize_bn(build_model(cfg), torch.Generator().manual_seed(1))
        model.cfg = cfg
        return model.requires_grad_(False)

    return build


@pytest.fixture(scope='session')
def rescale():
    """Return `rescale(predict, inputs, {layer: gain})`.

    It scales layers so that each channel of their output has mean 0 and standard deviation `gain` on these inputs. The
    outputs of the random network then vary without saturating.
    """

    def scale(predict, inputs, gains):
        for layer, gain in gains.items():
            seen = []
            handle = layer.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
            predict(inputs)
            handle.remove()
            channels = seen[-1].movedim(1, -1) if isinstance(layer, torch.nn.Conv2d) else seen[-1]
            deviation, mean = torch.std_mean(channels.flatten(0, -2), 0)
            factor = gain / deviation.clamp(min=1e-6)
            layer.weight.mul_(factor.view(-1, *[1] * (layer.weight.dim() - 1)))
            layer.bias.sub_(mean).mul_(factor)

    return scale


@pytest.fixture(scope='session')
def build_graph():
    """Return `build_graph(model, plain=False)`, which builds the graph of a fused copy of the model."""
    from repvit_dense.exporting import graphs
    from repvit_dense.reparam import reparameterize_model

    def build(model, plain=False):
        return graphs.build(reparameterize_model(model), plain)

    return build


@pytest.fixture(scope='session')
def make_batch():
    """Return `make_batch(sizes, padded=None, seed=0)`: blobs, zero-padded to multiples of 32, and `img_hw`."""

    def make(sizes, padded=None, seed=0):
        generator = torch.Generator().manual_seed(seed)
        height, width = padded or [-(-max(sides) // 32) * 32 for sides in zip(*sizes, strict=True)]
        images = torch.zeros(len(sizes), 3, height, width)
        for image, (h, w) in zip(images, sizes, strict=True):
            blobs = torch.randn(1, 3, 2 + h // 16, 2 + w // 16, generator=generator)
            image[:, :h, :w] = F.interpolate(blobs, size=(h, w), mode='bicubic')[0]
            image[:, :h, :w] += 0.3 * torch.randn(3, h, w, generator=generator)
        return images, torch.tensor(sizes, dtype=torch.float32)

    return make


@pytest.fixture(scope='session')
def samples():
    """Return `samples(images, img_hw, original=None)`, which makes mmdet's data samples for a batch.

    `original` holds the height and width of each image before resizing; by default, the images were not resized.
    """
    from mmdet.structures import DetDataSample

    def make(images, img_hw, original=None):
        padded, made = tuple(images.shape[2:]), []
        for i, (h, w) in enumerate(img_hw.int().tolist()):
            before = original[i] if original else (h, w)
            meta = {'img_shape': (h, w), 'ori_shape': before, 'batch_input_shape': padded, 'pad_shape': padded}
            made.append(DetDataSample(metainfo={**meta, 'scale_factor': (w / before[1], h / before[0])}))
        return made

    return make


@pytest.fixture
def run_onnx(tmp_path):
    """Return `run_onnx(graph, example, dynamic=False)`, which exports to ONNX and returns a function that runs it."""
    import onnxruntime

    from repvit_dense.exporting.graphs.ops import onnx_translations

    def export(graph, example, dynamic=False):
        path, shapes = tmp_path / 'model.onnx', None
        if dynamic:
            sides = {2: 32 * torch.export.Dim('h', min=2, max=64), 3: 32 * torch.export.Dim('w', min=2, max=64)}
            batch = torch.export.Dim('batch', min=1, max=16)
            shapes = ({0: batch, **sides}, {0: batch})
        with torch.no_grad():
            torch.onnx.export(
                graph,
                example,
                path,
                dynamo=True,
                opset_version=20,
                input_names=['images', 'img_hw'],
                output_names=list(graph.outputs),
                dynamic_shapes=shapes,
                verbose=False,
                custom_translation_table=onnx_translations(),
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
        if dynamic:
            assert all(isinstance(session.get_inputs()[0].shape[i], str) for i in (0, 2, 3))

        def run(images, img_hw):
            outputs = session.run(None, {'images': images.numpy(), 'img_hw': img_hw.numpy()})
            return tuple(torch.from_numpy(value) for value in outputs)

        return run

    return export


@pytest.fixture(scope='session')
def matched():
    """Return `matched(detections, expected, score=1e-3, box=0.1)`, the share of expected detections with a partner.

    Both are dicts of `boxes (N, 4)`, `scores (N,)` and `labels (N,)`; `score` and `box` are the allowed differences.
    """

    def share(detections, expected, score=1e-3, box=0.1):
        near = (detections['scores'][:, None] - expected['scores'][None]).abs() < score
        near &= detections['labels'][:, None] == expected['labels'][None]
        near &= (detections['boxes'][:, None] - expected['boxes'][None]).abs().amax(2) < box
        for column in range(near.shape[1]):
            row = near[:, column].int().argmax()
            if near[row, column]:
                near[row] = False
                near[row, column] = True
        return near.any(0).float().mean().item()

    return share


@pytest.fixture
def random_boxes():
    """Return `random_boxes(img_hw, count, smallest=2)`: boxes `(B, count, 4)` of all sizes inside their images."""

    def make(img_hw, count, smallest=2.0):
        size = img_hw.flip(1)[:, None]
        corner = torch.rand(len(img_hw), count, 2) * (size - smallest)
        extent = smallest + torch.rand(len(img_hw), count, 2) * (size - corner - smallest)
        return torch.cat((corner, corner + extent), dim=2)

    return make


@pytest.fixture
def export_plain():
    """Return `export_plain(graph, example)`, which captures a graph and checks that its operators are plain."""

    def export(graph, example):
        program = torch.export.export(graph, example).run_decompositions({})
        for node in program.graph.nodes:
            values = node.meta.get('val')
            for value in values if isinstance(values, list | tuple) else [values]:
                assert not isinstance(value, torch.Tensor) or value.dim() <= 5, node
            assert not any(word in str(node.target) for word in ('nonzero', 'nms', 'roi_align', 'grid_sampler')), node
        return program.module()

    return export


@pytest.fixture(scope='module')
def detector(build_model, make_batch, samples):
    """Return `detector(name, *options)`, which builds a detector whose predictions vary between positions.

    Its prediction layers are rescaled during one prediction at 96x128 pixels, each before the next one runs.
    """
    images, img_hw = make_batch([(96, 128)])
    targets = {  # part of a layer's name -> mean and standard deviation of its output
        'retina_cls': (-3, 1.5), 'retina_reg': (0, 0.3),
        'rtm_cls': (-3, 1.5), 'rtm_reg': (2, 1), 'rtm_kernel': (0, 0.5), 'mask_head.projection': (0, 1),
        'bbox_head.cls_convs': (0, 2), 'bbox_head.reg_convs': (0, 1),
        'rpn_conv': (0, 1), 'rpn_cls': (0, 0.5), 'rpn_reg': (0, 0.3),
        'fc_cls': (0, 2), 'fc_reg': (0, 1), 'conv_logits': (0, 2),
    }  # fmt: skip
    cache = {}

    def scale(layer, mean, deviation):
        def hook(layer, _, out):
            handle.remove()
            factor, shift = deviation / out.std().clamp(min=1e-6), out.mean()
            layer.weight.mul_(factor)
            layer.bias.sub_(shift).mul_(factor).add_(mean)
            return (out - shift) * factor + mean

        handle = layer.register_forward_hook(hook)

    @torch.no_grad()
    def build(name, *options):
        if (name, options) not in cache:
            model = cache[name, options] = build_model(name, *options)
            for path, layer in model.named_modules():
                key = next((key for key in targets if key in path), None)
                if key and isinstance(layer, torch.nn.Conv2d | torch.nn.Linear) and layer.bias is not None:
                    scale(layer, *targets[key])
            model.predict(images, samples(images, img_hw))
        return cache[name, options]

    return build


@pytest.fixture(scope='session')
def agreement(samples, matched):
    """Return `agreement(model, graph, images, img_hw)`: the graph's outputs by name, and a share of detections.

    It is the smallest share, over images and in both directions, of detections that have a partner between the graph
    and mmdet's predict on the unfused model.
    """

    @torch.inference_mode()
    def compare(model, graph, images, img_hw):
        outputs = dict(zip(graph.outputs, graph(images, img_hw), strict=True))
        shares = []
        for i, sample in enumerate(graph.model.predict(images, samples(images, img_hw), rescale=True)):
            reference, count = sample.pred_instances, int(outputs['count'][i])
            detections = {key: outputs[key][i, :count] for key in ('boxes', 'scores', 'labels')}
            expected = {'boxes': reference.bboxes, 'scores': reference.scores, 'labels': reference.labels}
            assert count == len(reference)
            assert all((outputs[key][i, count:] == 0).all() for key in detections)
            shares += [matched(detections, expected), matched(expected, detections)] if count else []
        return outputs, min(shares, default=1.0)

    return compare
