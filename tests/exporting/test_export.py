"""From a config and a checkpoint to folders; what is refused, what is left behind, what is printed."""

import argparse

import numpy as np
import pytest
import torch
from torch import nn

from repvit_dense import config
from repvit_dense.artifact import manifest
from repvit_dense.errors import InputError
from repvit_dense.exporting import export, formats

COCO = {'scale': [1333, 800], 'keep_ratio': True, 'pad_to': None, 'divisor': 32}


def arguments(*given):
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    return parser.parse_args(given)


# --- arguments ---


def test_defaults():
    args = arguments('--to', 'onnx', 'openvino')
    assert (args.to, args.batch, args.dynamic, args.precision, args.no_verify) == (
        ['onnx', 'openvino'],
        1,
        (),
        'fp32',
        False,
    )
    assert str(args.out) == 'exported'


@pytest.mark.parametrize(
    ('given', 'named'),
    [
        (['--to', 'tflite'], "'onnx', 'openvino', 'coreml', 'executorch', 'torch'"),
        (['--to', 'onnx', '--dynamic', 'batch,depth'], "unknown 'depth'; known: batch, size"),
        (['--to', 'onnx', '--precision', 'bf16'], "'fp32', 'fp16', 'int8'"),
        ([], '--to'),
    ],
)
def test_a_refused_argument_lists_what_is_taken(capsys, given, named):
    with pytest.raises(SystemExit):
        arguments(*given)
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ('recipe', 'size'),
    [
        (COCO, (800, 1344)),
        (COCO | {'scale': [800, 1333]}, (800, 1344)),
        (COCO | {'scale': [2048, 512]}, (512, 704)),  # no picture is four times as wide as high
        (COCO | {'scale': [2048, 1024]}, (1024, 2048)),
        (COCO | {'scale': [320, 300], 'keep_ratio': False}, (320, 320)),
        (COCO | {'scale': [640, 640], 'pad_to': [640, 480]}, (480, 640)),
        (COCO | {'scale': [100, 100], 'divisor': 64}, (128, 128)),
    ],
)
def test_usual_size(recipe, size):
    assert export.usual_size(recipe) == size


def test_usual_size_of_a_pipeline_without_one():
    with pytest.raises(InputError, match='--size H W'):
        export.usual_size(COCO | {'scale': None})


@pytest.mark.parametrize(
    ('name', 'path'),
    [
        ('repvit_maskrcnn_coco', 'rcnn.max_per_img'),
        ('repvit_retinanet_coco', 'max_per_img'),
        ('repvit_mask2former_coco-instance', 'max_per_image'),
    ],
)
def test_fewer_detections(name, path):
    cfg = config.load(name)
    export.limit_detections(cfg, 7)
    found = cfg.model.test_cfg
    for key in path.split('.'):
        found = found[key]
    assert found == 7


@pytest.mark.parametrize(('name', 'count'), [('repvit_retinanet_coco', 0), ('repvit_retinanet_coco', 101)])
def test_no_more_detections_than_the_config_has(name, count):
    with pytest.raises(InputError, match='takes 1 to 100'):
        export.limit_detections(config.load(name), count)


def test_no_detections_to_limit():
    with pytest.raises(InputError, match='does not give detections'):
        export.limit_detections(config.load('repvit_segformer_ade20k'), 10)


# --- sizes that are left open ---


STRIDES = {
    'repvit_maskrcnn_coco': 64,
    'repvit_retinanet_coco': 128,
    'repvit_ssdlite_coco': 512,
    'repvit_rtmdet-ins_coco': 32,
}


@pytest.mark.parametrize(('name', 'stride'), STRIDES.items())
@torch.no_grad()
def test_coarsest_stride_is_that_of_the_features(name, stride):
    from repvit_dense.predict import build

    cfg = config.load(name, backbone='repvit_m0_6')
    assert export.coarsest_stride(cfg) == stride
    assert build(cfg).extract_feat(torch.zeros(1, 3, 1024, 32))[-1].shape[2] == 1024 // stride


def test_a_model_without_anchors_has_no_coarsest_stride():
    assert export.coarsest_stride(config.load('repvit_detr_coco')) == 1


@pytest.mark.parametrize(
    ('name', 'size', 'takes'),
    [
        ('repvit_maskrcnn_coco', (64, 512), '96 512'),
        ('repvit_retinanet_coco', (96, 128), '160 160'),
        ('repvit_ssdlite_coco', (544, 512), '544 544'),
    ],
)
def test_an_open_size_that_would_fix_a_level_is_refused_before_any_work(tmp_path, name, size, takes):
    args = arguments('--to', 'torch', '--dynamic', 'size', '--out', str(tmp_path), '--size', *map(str, size))
    with pytest.raises(InputError) as error:
        export.run(args, config.load(name), 'missing.pth')
    assert str(error.value).endswith(f'take --size {takes}')


# --- what is compared ---


def test_drawn_images_are_always_the_same_and_have_structure():
    one, two = export.drawn_images(2), export.drawn_images(2)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0], one[1])
    assert one[0].shape == (480, 640, 3) and one[0].std() > 30


@pytest.mark.parametrize('dynamic', [(), ('batch',), ('size',), ('batch', 'size')])
def test_three_batches_and_other_shapes_where_they_are_open(dynamic):
    shapes = export.compared_shapes(1, (64, 96), dynamic, 32, 32)
    assert len(shapes) == 3 and shapes[0] == (1, (64, 96))
    assert (len({number for number, _ in shapes}) > 1) == ('batch' in dynamic)
    assert (len({size for _, size in shapes}) > 1) == ('size' in dynamic)
    assert all(side % 32 == 0 for _, size in shapes for side in size)


def test_no_shape_is_compared_below_the_smallest():
    sizes = {size for _, size in export.compared_shapes(1, (160, 160), ('size',), 32, 160)}
    assert sizes == {(160, 160), (192, 160)}


def test_images_of_the_data_set_are_spread_over_it(tmp_path):
    import cv2

    (tmp_path / 'val2017').mkdir()
    for i in range(10):
        cv2.imwrite(str(tmp_path / f'val2017/{i}.png'), np.full((4, 4, 3), i, np.uint8))
    (tmp_path / 'val2017/3.png').write_text('no image')
    cfg = config.load('repvit_retinanet_coco')
    cfg.test_dataloader.dataset.data_root = str(tmp_path)
    assert [int(image[0, 0, 0]) for image in export._images(cfg, 'test', 3)] == [0, 6]
    cfg.test_dataloader.dataset.data_root = str(tmp_path / 'gone')
    assert list(export._images(cfg, 'test', 3)) == []


# --- the whole way ---


@torch.no_grad()
def _mix_classes(model, cfg):
    """As it comes, one class wins everywhere."""
    from repvit_dense.artifact import preprocess

    classify = model.decode_head.conv_seg
    nn.init.normal_(classify.weight)
    ((images, _),) = export.make_batches(export.drawn_images(1), preprocess.from_config(cfg), [(1, (64, 96))])
    logits = model.decode_head(model.extract_feat(torch.from_numpy(images)))
    classify.bias -= logits.mean((0, 2, 3))
    assert len(model.decode_head(model.extract_feat(torch.from_numpy(images))).argmax(1).unique()) > 3


@pytest.fixture
def trained(tmp_path, tiny_arch, randomize_bn):
    """Config and checkpoint of a tiny segmentor whose data are not there."""
    from repvit_dense.predict import build

    cfg = config.load('repvit_segformer_shapes')
    cfg.model.backbone.arch = tiny_arch
    cfg.model.decode_head.update(in_channels=list(tiny_arch['embed_dims']), channels=16)
    for split in ('train', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(tmp_path / 'no-data')
    model = randomize_bn(build(cfg))
    _mix_classes(model, cfg)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'trained.pth')
    return cfg, str(tmp_path / 'trained.pth')


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'exported'


def run(trained, out, *given):
    return export.run(arguments('--out', str(out), '--size', '64', '96', *given), *trained)


@pytest.mark.parametrize('target', ['onnx', 'openvino', 'torch'])
def test_an_artifact_is_whole_and_certified(trained, out, target, capsys):
    assert run(trained, out, '--to', target) == 0
    assert [path.name for path in out.iterdir()] == [target]
    found = manifest.read(out / target)
    assert (found.task, found.target, found.precision, found.model) == (
        'semantic',
        target,
        'fp32',
        formats.TARGETS[target].model,
    )
    assert found.inputs == {'images': [1, 3, 64, 96], 'img_hw': [1, 2]}
    assert found.config == 'repvit_segformer_shapes' and len(found.classes) == 12
    assert found.certificate['agreement']['pixels'] > 0.999
    assert len(found.certificate['inputs']) == 3
    assert max(found.certificate['stages'].values()) < 1e-3
    printed = capsys.readouterr().out
    assert f'{target}: written in ' in printed and 'peak memory' in printed
    assert 'of pixels' in printed.splitlines()[-1]


def test_dynamic_and_precision_are_in_manifest_and_name(trained, out):
    assert run(trained, out, '--to', 'onnx', '--dynamic', 'batch,size', '--precision', 'fp16', '--no-verify') == 0
    found = manifest.read(out / 'onnx-fp16')
    assert found.inputs == {'images': ['batch', 3, 'height', 'width'], 'img_hw': ['batch', 2]}
    assert found.precision == 'fp16'
    assert [shape[0] for shape in found.certificate['inputs']] == [1, 2, 3]


def test_the_checkpoint_is_named_by_its_hash(trained, out):
    import hashlib
    from pathlib import Path

    run(trained, out, '--to', 'torch')
    digest = hashlib.sha256(Path(trained[1]).read_bytes()).hexdigest()
    assert manifest.read(out / 'torch').checkpoint_sha256 == digest


def test_an_artifact_is_replaced_and_nothing_else_is(trained, out):
    (out / 'torch').mkdir(parents=True)
    (out / 'torch/notes.txt').write_text('mine')
    with pytest.raises(InputError, match='is no artifact'):
        run(trained, out, '--to', 'torch')
    assert (out / 'torch/notes.txt').read_text() == 'mine'
    (out / 'torch/manifest.json').write_text('{}')
    assert run(trained, out, '--to', 'torch') == 0
    assert sorted(path.name for path in (out / 'torch').iterdir()) == ['manifest.json', 'model.pt2']
    assert [path.name for path in out.iterdir()] == ['torch']


def test_refusals_come_before_the_checkpoint_is_read(trained, out):
    with pytest.raises(InputError, match='multiples of 32'):
        export.run(arguments('--to', 'torch', '--size', '50', '96', '--out', str(out)), trained[0], 'missing.pth')
    with pytest.raises(InputError, match='torch takes fp32'):
        export.run(arguments('--to', 'torch', '--precision', 'int8', '--out', str(out)), trained[0], 'missing.pth')
    assert not out.exists()


def test_a_failed_format_leaves_nothing_and_the_others_go_on(trained, out, capsys, monkeypatch):
    write = formats.write

    def fail_for_onnx(graph, folder, target, *rest):
        (folder / 'half-written').touch()
        if target == 'onnx':
            raise InputError('seg differs')
        (folder / 'half-written').unlink()
        return write(graph, folder, target, *rest)

    monkeypatch.setattr(formats, 'write', fail_for_onnx)
    assert run(trained, out, '--to', 'onnx', 'torch') == 2
    assert [path.name for path in out.iterdir()] == ['torch']
    assert 'error: onnx: seg differs' in capsys.readouterr().err


def test_a_model_beyond_the_tolerance_is_not_written_unless_asked(trained, out, monkeypatch, capsys):
    from repvit_dense.artifact import runtimes

    load = runtimes.load

    def wrong(*args):
        infer = load(*args)
        return lambda *batch: {name: value + 1 for name, value in infer(*batch).items()}

    monkeypatch.setattr(runtimes, 'load', wrong)
    assert run(trained, out, '--to', 'torch') == 2
    assert not (out / 'torch').exists()
    assert 'seg' in capsys.readouterr().err
    assert run(trained, out, '--to', 'torch', '--no-verify') == 0
    assert manifest.read(out / 'torch').certificate['failures']


def test_int8_without_training_images_is_refused(trained, out):
    with pytest.raises(InputError, match='training images'):
        run(trained, out, '--to', 'onnx', '--precision', 'int8')
