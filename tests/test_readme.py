"""Every command and every code block of the README runs, with options that make it small."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()
BASH = [line for block in re.findall(r'```bash\n(.*?)```', README, re.S) for line in block.splitlines()]
PYTHON = re.findall(r'```python\n(.*?)```', README, re.S)

TINY_SHAPES = (
    '--cfg-options embedded_data.root={tmp}/shapes embedded_data.num_train=4 embedded_data.num_val=2 '
    'train_dataloader.dataset.data_root={tmp}/shapes val_dataloader.dataset.data_root={tmp}/shapes '
    'test_dataloader.dataset.data_root={tmp}/shapes train_cfg.max_epochs=1 '
    'val_evaluator.ann_file={tmp}/shapes/annotations/instances_val2017.json '
    'test_evaluator.ann_file={tmp}/shapes/annotations/instances_val2017.json'
)
# Backbone weights are not downloaded here, and pictures of 64 pixels are resized to 96.
TINY_COCO = (
    '--cfg-options model.backbone.init_cfg=None train_cfg.max_epochs=1 '
    'train_dataloader.dataset.data_root={tmp}/coco val_dataloader.dataset.data_root={tmp}/coco '
    'test_dataloader.dataset.data_root={tmp}/coco val_evaluator.ann_file={tmp}/coco/annotations/instances_val2017.json '
    'test_evaluator.ann_file={tmp}/coco/annotations/instances_val2017.json '
    'train_dataloader.dataset.pipeline.2.scale=(96,96) val_dataloader.dataset.pipeline.1.scale=(96,96) '
    'test_dataloader.dataset.pipeline.1.scale=(96,96)'
)
# Crops of 64 pixels instead of 512.
TINY_SEGMENTS = (
    'train_cfg.max_iters=1 train_cfg.val_interval=1 train_dataloader.batch_size=2 train_dataloader.num_workers=0 '
    'val_dataloader.num_workers=0 train_dataloader.persistent_workers=False val_dataloader.persistent_workers=False '
    'model.data_preprocessor.size=(64,64) train_dataloader.dataset.pipeline.2.scale=(256,64) '
    'train_dataloader.dataset.pipeline.3.crop_size=(64,64) val_dataloader.dataset.pipeline.1.scale=(256,64) '
    'test_dataloader.dataset.pipeline.1.scale=(256,64)'
)
# README command -> what is run for it.
SMALL = {
    'make demo': f'make demo DEMO={{tmp}}/demo DEMO_OPTIONS="{TINY_SHAPES}"',
    'make test': 'make test',  # with PYTEST_ADDOPTS naming one file
    'make lint': 'make lint',
    'make bench': 'make bench BENCH_OPTIONS="inference --rounds 1"',
    'python tools/train.py configs/repvit_maskrcnn_coco.py': f'--work-dir {{tmp}}/wd {TINY_COCO}',
    'python tools/test.py configs/repvit_maskrcnn_coco.py work_dirs/repvit_maskrcnn_coco '
    '--deploy --show-dir predictions': f'--work-dir {{tmp}}/wd/test {TINY_COCO}',
    'python tools/doctor.py configs/repvit_segformer_ade20k.py --backbone mobilevitv2_100 --data path/to/data': '',
    'python tools/train.py configs/repvit_segformer_ade20k.py --backbone mobilevitv2_100 --data path/to/data '
    '--work-dir work_dirs/mine': f'--cfg-options model.backbone.init_cfg=None {TINY_SEGMENTS}',
    'python tools/predict.py configs/repvit_segformer_ade20k.py work_dirs/mine path/to/images '
    '--backbone mobilevitv2_100 --data path/to/data --out predictions': f'--cfg-options {TINY_SEGMENTS}',
    'python tools/export.py configs/repvit_segformer_ade20k.py work_dirs/mine --backbone mobilevitv2_100 '
    '--data path/to/data --to onnx openvino --out exported': f'--cfg-options {TINY_SEGMENTS}',
    'python tools/test.py configs/repvit_segformer_ade20k.py --backbone mobilevitv2_100 --data path/to/data '
    '--artifact exported/onnx': f'--work-dir {{tmp}}/tested --cfg-options {TINY_SEGMENTS}',
    'python tools/predict.py exported/onnx path/to/images --out found': '',
    'repvit-dense train repvit_maskrcnn_shapes': f'--work-dir {{tmp}}/wd2 {TINY_SHAPES}',
}


def run(command: str, **env) -> str:
    environment = {**os.environ, 'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}', **env}
    done = subprocess.run(
        shlex.split(command), cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope='module')
def tiny_coco(tmp_path_factory) -> Path:
    """Two pictures in COCO layout with COCO's 80 categories."""
    import cv2
    from mmdet.datasets import CocoDataset

    tmp = tmp_path_factory.mktemp('readme')
    rng = np.random.default_rng(0)
    categories = [{'id': i + 1, 'name': name} for i, name in enumerate(CocoDataset.METAINFO['classes'])]
    for split in ('train2017', 'val2017'):
        folder = tmp / 'coco' / split
        folder.mkdir(parents=True)
        images, annotations = [], []
        for i in range(2):
            cv2.imwrite(str(folder / f'{i}.png'), rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
            images.append({'id': i, 'file_name': f'{i}.png', 'height': 64, 'width': 64})
            square = {'bbox': [8, 8, 40, 40], 'area': 1600, 'segmentation': [[8, 8, 48, 8, 48, 48, 8, 48]]}
            annotations.append({'id': i + 1, 'image_id': i, 'category_id': i + 1, 'iscrowd': 0, **square})
        file = tmp / 'coco' / 'annotations' / f'instances_{split}.json'
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({'images': images, 'annotations': annotations, 'categories': categories}))
    return tmp


def test_every_command_of_the_readme_is_run_here():
    assert set(BASH) == set(SMALL)


def test_make_test_runs_the_tests():
    assert re.search(r'\d+ passed', run('make test', PYTEST_ADDOPTS='tests/test_architecture.py'))


def test_make_lint_passes():
    assert 'All checks passed' in run('make lint')


def test_make_bench_prints_a_table():
    assert 'of 1 targets met' in run(SMALL['make bench'])


@pytest.mark.slow
def test_make_demo_leaves_curves_and_a_page(tmp_path):
    run(SMALL['make demo'].format(tmp=tmp_path))
    assert (tmp_path / 'demo' / 'curves.png').is_file()
    page = (tmp_path / 'demo' / 'predictions' / 'index.html').read_text()
    assert page.count('<figure>') == 3  # curves and two validation pictures


@pytest.mark.slow
def test_the_coco_commands_train_and_test(tiny_coco):
    train, test = (command for command in BASH if 'maskrcnn_coco' in command)
    run(f'{train} {SMALL[train]}'.format(tmp=tiny_coco))
    assert (tiny_coco / 'wd' / 'last_checkpoint').is_file()
    small = test.replace('work_dirs/repvit_maskrcnn_coco', f'{tiny_coco}/wd')
    small = small.replace('--show-dir predictions', f'--show-dir {tiny_coco}/predictions')
    run(f'{small} {SMALL[test]}'.format(tmp=tiny_coco))
    assert (tiny_coco / 'predictions' / 'index.html').is_file()


@pytest.fixture(scope='module')
def tiny_masks(tmp_path_factory) -> Path:
    """Images and index masks of classes that no config knows, in a folder of their own."""
    import cv2

    root = tmp_path_factory.mktemp('masks') / 'data'
    rng = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 2)):
        for kind in ('images', 'masks'):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(root / 'images' / split / f'{i}.jpg'), rng.integers(0, 255, (64, 80, 3), dtype=np.uint8))
            cv2.imwrite(str(root / 'masks' / split / f'{i}.png'), rng.integers(0, 3, (64, 80), dtype=np.uint8))
    (root / 'classes.txt').write_text('moss\nstone\nwater\n')
    return root


@pytest.mark.slow
def test_a_backbone_by_name_and_data_never_seen_before(tiny_masks, tmp_path):
    places = {
        'path/to/data': tiny_masks,
        'path/to/images': tiny_masks / 'images' / 'val',
        'work_dirs/mine': tmp_path / 'mine',
        '--out predictions': f'--out {tmp_path}/out',
        '--out found': f'--out {tmp_path}/found',
        'exported': tmp_path / 'exported',
    }

    def small(start):
        (command,) = (command for command in BASH if command.startswith(f'python tools/{start}'))
        given = f'{command} {SMALL[command]}'.replace('{tmp}', str(tmp_path))
        for place, path in places.items():
            given = given.replace(place, str(path))
        return given

    table = run(small('doctor.py'))
    assert 'mobilevitv2_100' in table or '3 classes' in table
    run(small('train.py configs/repvit_segformer'))
    run(small('predict.py configs'))
    found = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    assert len(found) == 2
    assert {part['label'] for entry in found for part in entry['segments']} <= {'moss', 'stone', 'water'}

    run(small('export.py'))
    assert 'mIoU' in run(small('test.py configs/repvit_segformer'))
    run(small('predict.py exported'))
    again = json.loads((tmp_path / 'found' / 'predictions.json').read_text())
    for one, other in zip(found, again, strict=True):  # the same up to what resizing a class map costs
        shares = [{part['label']: part['share'] for part in entry['segments']} for entry in (one, other)]
        assert all(abs(shares[0].get(name, 0) - shares[1].get(name, 0)) < 0.05 for name in ('moss', 'stone', 'water'))

    (block,) = (block for block in PYTHON if 'Predictor' in block)
    block = block.replace('exported/onnx', str(tmp_path / 'exported' / 'onnx'))
    names = {}
    exec(
        compile(block.replace('path/to/image.jpg', str(tiny_masks / 'images' / 'val' / '0.jpg')), 'README.md', 'exec'),
        names,
    )
    assert names['found']['seg'].shape == (64, 80)


@pytest.mark.slow
def test_the_installed_command_finds_a_config_by_name(tmp_path):
    (command,) = (command for command in BASH if command.startswith('repvit-dense'))
    run(f'{command} {SMALL[command]}'.format(tmp=tmp_path))
    assert (tmp_path / 'wd2' / 'curves.png').is_file()


def test_the_config_block_builds_through_mmdet():
    from mmdet.registry import MODELS
    from mmengine.config import Config

    (block,) = (block for block in PYTHON if 'custom_imports' in block)
    config = Config.fromstring(block, '.py')
    backbone = MODELS.build(config.model.backbone)
    assert list(backbone.out_channels) == config.model.neck.in_channels


def test_the_fusing_block_runs():
    (block,) = (block for block in PYTHON if 'reparameterize_model' in block)
    exec(compile(block, 'README.md', 'exec'), {})


def test_the_table_of_variants_is_right():
    from repvit_dense.backbones import RepViT
    from repvit_dense.backbones.repvit import ARCHS

    rows = re.findall(r'^\| (m\d_\d) \| ([\d ]+) \| ([\d,]+) → ([\d,]+) \|', README, re.M)
    assert [row[0] for row in rows] == list(ARCHS)
    for arch, channels, training, deploy in rows:
        model = RepViT(arch).eval()
        assert tuple(map(int, channels.split())) == model.out_channels
        for count in (training, deploy):
            assert sum(p.numel() for p in model.parameters()) == int(count.replace(',', ''))
            model.switch_to_deploy()
