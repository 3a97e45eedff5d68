"""The pages: every command runs, every option and link exists, every number that can be computed is right.

The pages are run in a folder that looks like a clone with tiny data in it, page by page, each command as it is written
except for options that make it small. A command that several pages show runs once.
"""

import json
import pkgutil
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from repvit_dense import catalogue, catalogue_rows, cli

ROOT = Path(__file__).parent.parent
MEASURED = ('model_zoo', 'peers', 'ladder', 'growth')  # generated pages; their code blocks are excerpts
PAGES = {path.name: path for path in [*sorted(ROOT.glob('*.md')), *sorted((ROOT / 'docs').rglob('*.md'))]}
# In the order in which they run: the first page trains and exports the model of the others, the last one replaces it.
STORY = (
    'start.md',
    'predict.md',
    'export.md',
    'python.md',
    'cards.md',
    'plugin.md',
    'data.md',
    'configs.md',
    'README.md',
)
OTHER_OPTIONS = ('--no-build-isolation',)  # of pip
LIST_OF_OPTIONS = 'commands.md'  # generated when the site is built

# Commands that are shown and not run here, and why not.
NOT_RUN = {
    'source .venv/bin/activate': 'changes the shell only',
    'pip install "repvit_dense[openmmlab]"': 'needs a package index that has this package',
    'pip install "repvit_dense[serve]"': 'needs a package index that has this package',
    'repvit-dense serve work_dirs/mine': 'runs until it is stopped; tests/commands/test_serve.py starts it',
    "curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' 'http://127.0.0.1:8000/predict?score=0.5'": 'needs '
    'the server; tests/serving asks it',
    'repvit-dense push exported/onnx user/name --license Apache-2.0': 'needs the hub; tests/artifact/test_hub.py',
    'repvit-dense predict hf://user/name photo.jpg': 'needs the hub; tests/artifact/test_hub.py',
    'git clone REPOSITORY repvit_dense && cd repvit_dense': 'the tests run in a clone',
    'make demo': 'tests/test_readme.py runs it, smaller',
    'make demo-photos': 'tests/test_readme.py runs it, smaller',
    'torchrun --nproc_per_node 8 tools/train.py CONFIG --launcher pytorch': 'needs 8 GPUs',
    'torchrun --nnodes 2 --node_rank N --master_addr HOST --master_port 29500 --nproc_per_node 8 '
    'tools/train.py CONFIG --launcher pytorch': 'needs two machines',
    'srun --nodes 2 --ntasks-per-node 8 --gpus-per-node 8 python tools/train.py CONFIG --launcher slurm': 'needs slurm',
    'torchrun --standalone --nproc_per_node 8 --max-restarts 3 tools/train.py CONFIG --launcher pytorch '
    '--checkpoint-every 5m': 'needs 8 GPUs',
    'python tools/benchmark.py repvit_maskrcnn_coco --what training --batch 2 --size 800 1344 --device cuda '
    '--precision bf16': 'needs a GPU',
}
FENCE = re.compile(r'^```(\w+)\n(.*?)^```', re.S | re.M)
IMAGES_OF_TEST = ('val_dataloader', 'test_dataloader')
NO_WORKERS = [
    f'{loader}.{setting}'
    for loader in ('train_dataloader', *IMAGES_OF_TEST)
    for setting in ('num_workers=0', 'persistent_workers=False')
]
# Config -> settings that make its training small: two images of 64 or 96 pixels, and no weights from the network.
SMALL = {
    'repvit_maskrcnn_shapes': ['train_dataloader.batch_size=2'],
    'repvit_fasterrcnn_shapes': ['train_dataloader.batch_size=2'],
    'repvit_rtmdet-ins_coco': [
        'model.backbone.init_cfg=None',
        'train_dataloader.batch_size=2',
        *NO_WORKERS,
        *(
            f'train_dataloader.dataset.pipeline.{setting}'
            for setting in (
                '2.img_scale=(64,64)',
                '3.scale=(128,128)',
                '4.crop_size=(64,64)',
                '7.size=(64,64)',
                '8.img_scale=(64,64)',
            )
        ),
        *(f'{loader}.dataset.pipeline.1.scale=(64,64)' for loader in IMAGES_OF_TEST),
        *(f'{loader}.dataset.pipeline.2.size=(64,64)' for loader in IMAGES_OF_TEST),
    ],
    'repvit_retinanet_coco': [
        'model.backbone.init_cfg=None',
        *NO_WORKERS,
        'train_dataloader.dataset.pipeline.2.scale=(96,96)',
        *(f'{loader}.dataset.pipeline.1.scale=(96,96)' for loader in IMAGES_OF_TEST),
    ],
    'repvit_segformer_ade20k': [
        'model.backbone.init_cfg=None',
        'train_dataloader.batch_size=2',
        *NO_WORKERS,
        'model.data_preprocessor.size=(64,64)',
        'train_dataloader.dataset.pipeline.2.scale=(256,64)',
        'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
        *(f'{loader}.dataset.pipeline.1.scale=(256,64)' for loader in IMAGES_OF_TEST),
    ],
}


def bash_lines(block: str) -> list[str]:
    """Return the commands of a bash block, continued lines joined, without comments."""
    lines = re.sub(r'\\\n\s*', '', block).splitlines()
    return [line for line in lines if line and not line.startswith('#')]


def bash_commands(page: str) -> list[str]:
    text = PAGES[page].read_text()
    return [line for language, block in FENCE.findall(text) if language == 'bash' for line in bash_lines(block)]


def arguments(command: str) -> list[str]:
    """Return the arguments of `cli.main` for a command."""
    words = shlex.split(command)
    if Path(words[0]).name == 'repvit-dense':
        return words[1:]
    tool = re.fullmatch(r'tools/(\w+)\.py', words[1])
    assert words[0] == 'python' and tool, f'neither run nor listed in NOT_RUN: {command}'
    return [tool[1], *words[2:]]


def shrink(words: list[str]) -> list[str]:
    """Add options that make a training small."""
    if words[0] != 'train':
        return words
    if '--epochs' not in words:
        words = [*words[:2], '--epochs', '', *words[2:]]
    words[words.index('--epochs') + 1] = '1'
    more = [] if '--cfg-options' in words else ['--cfg-options']
    return [*words, *more, *SMALL[Path(words[1]).stem]]


def run_command(command: str) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(argv=shrink(arguments(command)))
    assert not end.value.code, command


def run_page(page: str, done: set[str]) -> None:
    """Run the code blocks of a page in their order; the Python blocks of a page share their names."""
    names: dict = {}
    for language, block in FENCE.findall(PAGES[page].read_text()):
        for command in bash_lines(block) if language == 'bash' else ():
            if command not in NOT_RUN and command not in done:
                run_command(command)
                done.add(command)
        if language == 'python':
            exec(compile(block, page, 'exec'), names)


def draw_image(rng: np.random.Generator, path: Path, height: int = 64, width: int = 64) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def draw_coco(rng: np.random.Generator, root: Path) -> None:
    """Draw images with one square each, in COCO layout."""
    for split, count in (('train', 4), ('val', 2)):
        images, annotations = [], []
        for i in range(count):
            draw_image(rng, root / split / f'{i}.jpg')
            images.append({'id': i, 'file_name': f'{i}.jpg', 'height': 64, 'width': 64})
            square = {'bbox': [8, 8, 40, 40], 'area': 1600, 'segmentation': [[8, 8, 48, 8, 48, 48, 8, 48]]}
            annotations.append({'id': i + 1, 'image_id': i, 'category_id': i % 2 + 1, 'iscrowd': 0, **square})
        categories = [{'id': 1, 'name': 'moss'}, {'id': 2, 'name': 'stone'}]
        file = root / 'annotations' / f'instances_{split}.json'
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({'images': images, 'annotations': annotations, 'categories': categories}))


def draw_masks(rng: np.random.Generator, root: Path) -> None:
    for split, count in (('train', 4), ('val', 2)):
        for i in range(count):
            draw_image(rng, root / 'images' / split / f'{i}.jpg', 64, 80)
            (root / 'masks' / split).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / 'masks' / split / f'{i}.png'), rng.integers(0, 3, (64, 80), dtype=np.uint8))
    (root / 'classes.txt').write_text('moss\nstone\nwater\n')


def draw_voc(rng: np.random.Generator, root: Path) -> None:
    box = '<xmin>9</xmin><ymin>9</ymin><xmax>48</xmax><ymax>48</ymax>'
    for split, count in (('train', 4), ('val', 2)):
        names = [f'{split}_{i}' for i in range(count)]
        for folder in ('Annotations', 'ImageSets/Main'):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / 'ImageSets' / 'Main' / f'{split}.txt').write_text('\n'.join(names))
        for name in names:
            draw_image(rng, root / 'JPEGImages' / f'{name}.jpg')
            (root / 'Annotations' / f'{name}.xml').write_text(
                f'<annotation><filename>{name}.jpg</filename><size><width>64</width><height>64</height></size>'
                f'<object><name>cell</name><bndbox>{box}</bndbox></object></annotation>'
            )


def save_demo(folder: Path) -> None:
    """Save a model with random weights in the work dir of `make demo`."""
    from repvit_dense import config
    from repvit_dense.model import build_model

    cfg = config.load('repvit_maskrcnn_shapes')
    folder.mkdir(parents=True)
    cfg.dump(folder / 'repvit_maskrcnn_shapes.py')
    meta = {'cfg': cfg.pretty_text, 'dataset_meta': {'classes': cfg.train_dataloader.dataset.metainfo.classes}}
    torch.save({'state_dict': build_model(cfg).state_dict(), 'meta': meta}, folder / 'best_coco_segm_mAP_epoch_3.pth')


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """Yield a folder that looks like a clone with data, after the commands of start.md, and the commands that ran.

    It has the data that the pages name.
    """
    from repvit_dense import api

    folder, rng = tmp_path_factory.mktemp('clone'), np.random.default_rng(0)
    (folder / 'configs').symlink_to(ROOT / 'configs')
    draw_coco(rng, folder / 'my_folder')
    draw_masks(rng, folder / 'my_masks')
    draw_voc(rng, folder / 'BCCD')
    for name in ('photos/1.jpg', 'photos/2.jpg', 'photo.jpg'):
        draw_image(rng, folder / name, 72, 96)

    def train_small(config: str, **options):
        return train(config, **{**options, 'epochs': 1, 'cfg_options': SMALL[config]})

    train, done = api.train, set()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv('LOCAL_RANK', '0')  # commands set it
        patch.setattr(api, 'train', train_small)
        save_demo(folder / 'work_dirs' / 'demo')
        run_page('start.md', done)
        yield folder, done


@pytest.mark.slow
@pytest.mark.parametrize('page', STORY)
def test_page_runs(clone, page):
    run_page(page, clone[1])


@pytest.mark.slow
def test_start_leaves_what_it_promises(clone):
    folder, _ = clone
    for name in ('predictions', 'predictions_onnx'):
        assert len(json.loads((folder / name / 'predictions.json').read_text())) == 2
        assert (folder / name / 'index.html').is_file()
    assert (folder / 'work_dirs' / 'mine' / 'curves.png').is_file()
    assert (folder / 'exported' / 'onnx' / 'manifest.json').is_file()
    assert (folder / 'out.jpg').is_file()


def test_every_command_is_run_or_listed():
    commands = {command for page in PAGES for command in bash_commands(page)}
    assert commands >= NOT_RUN.keys(), 'NOT_RUN lists a command that no page has'
    pages_with_code = {page for page in PAGES if set(bash_commands(page)) - NOT_RUN.keys()}
    assert pages_with_code - {'CONTRIBUTING.md'} <= {*STORY, 'training.md'}


def test_the_config_block_builds_through_mmdet():
    from mmdet.registry import MODELS
    from mmengine.config import Config

    for page in ('README.md', 'plugin.md'):
        (block,) = (code for _, code in FENCE.findall(PAGES[page].read_text()) if 'custom_imports' in code)
        config = Config.fromstring(block, '.py')
        backbone = MODELS.build(config.model.backbone)
        assert list(backbone.out_channels) == config.model.neck.in_channels


# --- options and commands inside sentences ---


def inline_code(page: str) -> list[str]:
    return re.findall(r'`([^`\n]+)`', FENCE.sub('', PAGES[page].read_text()))


@pytest.mark.parametrize('page', [page for page in PAGES if page != 'CHANGELOG.md'])
def test_commands_in_sentences_can_be_parsed(page):
    from tools.pages.__main__ import PAGES as WRITERS

    for code in inline_code(page):
        words = shlex.split(code)
        if code.startswith('python -m tools.pages '):
            assert words[3] in WRITERS, code
        elif code.startswith(('repvit-dense ', 'python tools/')) and len(words) > 2 and '--help' not in words:
            cli.build_parser().parse_args(arguments(code))


@pytest.mark.parametrize('page', [page for page in PAGES if page not in ('CHANGELOG.md', 'design.md')])
def test_options_exist(page):
    from tools.pages.__main__ import PAGES as WRITERS

    parsers = [action.choices for action in cli.build_parser()._actions if isinstance(action.choices, dict)]
    known = {flag for choices in parsers for parser in choices.values() for flag in parser._option_string_actions}
    writers = [(ROOT / 'tools' / 'pages' / f'{name}.py').read_text() for name in WRITERS]
    for code in inline_code(page):
        if code in OTHER_OPTIONS:
            continue
        for flag in re.findall(r'(?<![\w-])--[a-z][a-z-]*', code if code.startswith('--') else ''):
            field = re.compile(rf'^    {flag[2:].replace("-", "_")}: ', re.M)
            assert flag in known or any(field.search(source) for source in writers), (page, flag)


@pytest.mark.parametrize('page', [page for page in PAGES if page != 'CHANGELOG.md'])
def test_files_and_names_in_sentences_exist(page):
    for code in inline_code(page):
        if re.fullmatch(r'(repvit_dense|configs|docs|requirements|tests|tools)/[\w./-]+', code):
            assert (ROOT / code).exists(), code
        if re.fullmatch(r'repvit_dense(\.\w+)+', code):
            assert pkgutil.resolve_name(code) is not None, code


# --- links ---


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a page, as forges and the site build them."""
    titles = [re.sub(r'[`*]|\[([^\]]*)\]\([^)]*\)', r'\1', title) for title in re.findall(r'^#+ (.*)$', text, re.M)]
    return {re.sub(r'[^\w\- ]', '', title.lower()).strip().replace(' ', '-') for title in titles}


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
    path = PAGES[page]
    text = FENCE.sub('', path.read_text())
    for link in re.findall(r'\]\(([^)\s]+)\)', text):
        if re.match(r'[a-z]+:', link):
            continue
        name, _, anchor = link.partition('#')
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f'{page}: {link}'
        if anchor and target.name != LIST_OF_OPTIONS:
            assert anchor in anchors(FENCE.sub('', target.read_text())), f'{page}: {link}'


# --- numbers ---


def test_the_number_of_backbones_is_right():
    pages = ('README.md', 'configs.md', 'design.md')
    numbers = [
        number
        for page in pages
        for number in re.findall(r'\b(\d+) (?:backbones|in the catalogue)', PAGES[page].read_text())
    ]
    assert numbers and set(numbers) == {str(len(catalogue.BACKBONES))}


def test_every_config_and_backbone_is_on_its_page():
    text = PAGES['configs.md'].read_text()
    for config in (ROOT / 'configs').glob('*.py'):
        assert f'`{config.stem}`' in text
    table = text[text.index('| family |') : text.index('All return four')]
    listed = {group: re.findall(r'`([^`]+)`', names) for group, names in re.findall(r'\| (\w[^|]+?) \| (`.+)', table)}
    assert listed == {group: [row.name for row in rows] for group, rows in catalogue_rows.GROUPS.items()}


def test_the_table_of_formats_is_right():
    from repvit_dense.artifact.targets import TARGETS

    rows = re.findall(r'^\| `(\w+)` \| .*? \| ([\w, ]+) \| ([\w, -]+) \|', PAGES['export.md'].read_text(), re.M)
    table = {name: (precisions, dynamic) for name, precisions, dynamic in rows}
    assert table == {name: (', '.join(row.precisions), ', '.join(row.dynamic) or '-') for name, row in TARGETS.items()}


def test_the_table_of_variants_is_right():
    from repvit_dense.backbones import RepViT
    from repvit_dense.backbones.repvit import ARCHS

    text = PAGES['configs.md'].read_text()
    rows = re.findall(r'^\| (m\d_\d) \| ([\d ]+) \| ([\d,]+) → ([\d,]+) \|', text, re.M)
    assert [row[0] for row in rows] == list(ARCHS)
    for arch, channels, training, fused in rows:
        model = RepViT(arch).eval()
        assert tuple(map(int, channels.split())) == model.out_channels
        for count in (training, fused):
            assert sum(p.numel() for p in model.parameters()) == int(count.replace(',', ''))
            model.switch_to_deploy()


def test_pages_use_few_words_that_slow_a_reader_down():
    for word, limit in (('what', 1.0), ('where', 2.5)):
        texts = [re.sub(r'`[^`]*`', ' ', FENCE.sub('', path.read_text())).lower() for path in PAGES.values()]
        words = [other for text in texts for other in re.findall(r"[a-z][a-z'-]*", text)]
        assert 1000 * words.count(word) / len(words) <= limit
