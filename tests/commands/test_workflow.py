"""One short training, interrupted and resumed, and everything that follows from it, as typed."""

import json
import multiprocessing
import os
import re
import signal
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from repvit_dense.engine.pictures import LINE

ROOT = Path(__file__).parents[2]
SHAPES = str(ROOT / 'configs/repvit_maskrcnn_shapes.py')
PRELOAD = ['pytest', 'repvit_dense', 'mmdet.apis', 'matplotlib.pyplot', 'torch.utils.tensorboard']
CHILD = """
import os, runpy, sys
os.chdir(folder)
for stream in (1, 2):
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), stream)
sys.argv = arguments
runpy.run_path(arguments[0], run_name='__main__')
"""


class Project:
    """A folder with a small data set and a work dir, and the commands that fill them."""

    def __init__(self, folder):
        self.folder, self.work_dir = folder, folder / 'run'
        root = folder / 'shapes'
        self.options = [
            'embedded_data.num_train=8',
            'embedded_data.num_val=3',
            'embedded_data.size=96,128',
            f'embedded_data.root={root}',
            *(f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'val', 'test')),
            *(f'{split}_evaluator.ann_file={root}/annotations/instances_val2017.json' for split in ('val', 'test')),
            'train_dataloader.batch_size=4',
            'default_hooks.logger.interval=1',
        ]

    def fork(self, command, *arguments, until=None, options=()):
        """Run a command; return its exit code and output.

        The process is forked from one that has done the imports, because these take as long as the rest of these tests.
        It gets a SIGINT as soon as it has written `until`.
        """
        output = self.folder / 'output.txt'
        output.unlink(missing_ok=True)
        tool = str(ROOT / 'tools' / f'{command}.py')
        line = [tool, SHAPES, *map(str, arguments), '--verbose', '--cfg-options', *self.options, *options]
        values = {'folder': str(self.folder), 'output': str(output), 'arguments': line}
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload(PRELOAD)
        process = context.Process(target=exec, args=(CHILD, values))
        process.start()
        while until and process.is_alive():
            if output.exists() and until in output.read_text():
                os.kill(process.pid, signal.SIGINT)
                break
            time.sleep(0.02)
        process.join()
        return process.exitcode, output.read_text()

    def scores(self, work_dir):
        """Return the scores of the last test in this work dir."""
        path = max(path for path in (self.folder / work_dir).glob('*/*.json') if path.stem == path.parent.name)
        return json.loads(path.read_text())

    def predictions(self, name):
        """Return the scores of every image, largest first."""
        scores_by_image = {}
        for part in json.loads((self.folder / f'{name}.segm.json').read_text()):
            scores_by_image.setdefault(part['image_id'], []).append(part['score'])
        return {image: sorted(scores, reverse=True) for image, scores in scores_by_image.items()}


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp('project'))


@pytest.fixture(scope='module')
def trained(project):
    """Train an epoch; resume and interrupt; resume to the end of the third epoch. Return exit codes and outputs."""
    work_dir = ['--work-dir', 'run']
    first = project.fork('train', *work_dir, '--seed', 0, options=['train_cfg.max_epochs=1'])
    second = project.fork('train', *work_dir, '--resume', until='[2][1/2]', options=['train_cfg.max_epochs=99'])
    third = project.fork('train', *work_dir, '--resume', options=['train_cfg.max_epochs=3'])
    return first, second, third


@pytest.fixture(scope='module')
def tested(project, trained):
    """Test the trained model, then its fused form with pictures."""
    plain = project.fork('test', 'run', '--work-dir', 'plain', options=['test_evaluator.outfile_prefix=plain'])
    deploy = project.fork(
        'test', 'run', '--work-dir', 'deploy', '--deploy', '--show-dir', 'pictures/of run#1',
        options=['test_evaluator.outfile_prefix=deploy'],
    )  # fmt: skip
    return plain, deploy


@pytest.mark.slow
def test_training(project, trained):
    (code, output), *_ = trained
    assert code == 0, output
    assert 'Traceback' not in output
    assert 'Epoch(train) [1][2/2]' in output
    best = re.search(r'Best checkpoint: (\S+) \(score 0\.\d{3}\)', output)
    assert Path(best[1]).parent == project.work_dir
    assert f'Curves: {project.work_dir / "curves.png"}' in output
    assert len(list((project.folder / 'shapes/train2017').iterdir())) == 8


@pytest.mark.slow
def test_files_of_a_training(project, trained):
    assert (project.work_dir / 'epoch_1.pth').exists()
    assert len(list(project.work_dir.glob('best_coco_segm_mAP_epoch_*.pth'))) == 1
    assert list(project.work_dir.rglob('events.out.tfevents.*'))
    with Image.open(project.work_dir / 'curves.png') as picture:
        assert picture.size == (1000, 900)
    assert not list(project.work_dir.rglob('*.partial*'))
    # Nothing else, anywhere.
    assert {path.name for path in project.folder.iterdir()} <= {
        'run', 'shapes', 'output.txt', 'plain', 'deploy', 'pictures',
        'plain.bbox.json', 'plain.segm.json', 'deploy.bbox.json', 'deploy.segm.json',
    }  # fmt: skip


@pytest.mark.slow
def test_an_interrupted_training(project, trained):
    _, (code, output), _ = trained
    assert code == 130, output
    assert 'Traceback' not in output
    said = re.search(r'stopped by SIGINT after iteration (\d+); saved (\S+)\. Add --resume', output)
    assert int(said[1]) >= 3
    assert Path(said[2]) == project.work_dir / f'interrupted_iter_{said[1]}.pth'


@pytest.mark.slow
def test_a_resumed_training(project, trained):
    _, (_, interrupted), (code, output) = trained
    assert code == 0, output
    iterations = int(re.search(r'after iteration (\d+)', interrupted)[1])
    assert re.search(rf'resumed epoch: \d+, iter: {iterations}\n', output)
    records = [
        json.loads(line)
        for path in sorted(project.work_dir.glob('*/vis_data/scalars.json'))
        for line in path.read_text().splitlines()
    ]
    steps = [record['step'] for record in records if 'loss' in record]
    assert steps == list(range(1, 7))  # three epochs of two iterations, over three starts
    assert [record['step'] for record in records if 'coco/segm_mAP' in record] == [2, 4, 6]  # iterations
    assert (project.work_dir / 'last_checkpoint').read_text() == str(project.work_dir / 'epoch_3.pth')


@pytest.mark.slow
def test_the_fused_model_scores_the_same(project, tested):
    for code, output in tested:
        assert code == 0, output
        assert 'Traceback' not in output
        assert 'best_coco_segm_mAP_epoch_' in output
    assert 'deploy form' not in tested[0][1]
    before, after = re.search(r'Testing the fused model: ([\d,]+) parameters fused to ([\d,]+)', tested[1][1]).groups()
    assert int(after.replace(',', '')) < int(before.replace(',', ''))

    plain, deploy = project.scores('plain'), project.scores('deploy')
    names = [name for name in plain if name.startswith('coco/')]
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(names)
    assert [deploy[name] for name in names] == pytest.approx([plain[name] for name in names], abs=1e-3)
    # A training this short scores nothing, but the predictions agree.
    plain, deploy = project.predictions('plain'), project.predictions('deploy')
    assert len(plain) == 3
    assert max(map(max, plain.values())) > 0.1
    assert plain.keys() == deploy.keys()
    for image, scores in plain.items():
        assert deploy[image] == pytest.approx(scores, abs=1e-3)


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.sources, self.text = [], ''
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name == 'src']

    def handle_data(self, data):
        self.text += data


@pytest.mark.slow
def test_pictures_and_page(project, tested):
    folder = project.folder / 'pictures/of run#1'
    assert f'Page: {folder / "index.html"}' in tested[1][1]
    page = Page(folder / 'index.html')
    files = [(folder / unquote(source)).resolve() for source in page.sources]
    pictures = sorted(folder.glob('*.jpg'))
    figures = [folder / 'confusion.png', folder / 'precision_recall.png', project.work_dir / 'curves.png']
    assert sorted(files) == sorted([*figures, *pictures])
    assert len(pictures) == 3
    for file in pictures:
        with Image.open(file) as picture:  # ground truth beside prediction, small images enlarged
            assert picture.size == (3 * 2 * 128 + LINE, 3 * 96)
    assert 'coco/segm_mAP' in page.text


@pytest.mark.slow
def test_a_checkpoint_of_other_classes(project, trained):
    """Names both numbers; nothing is tested."""
    heads = ('bbox_head', 'mask_head')
    options = [f'model.roi_head.{head}.num_classes=2' for head in heads]
    classes = ["metainfo.classes=('circle','square')"]
    options += [f'{split}_dataloader.dataset.{classes[0]}' for split in ('train', 'val', 'test')]
    code, output = project.fork('test', 'run', '--work-dir', 'plain', options=options)
    assert code == 2, output
    assert 'Traceback' not in output
    message = [line for line in output.splitlines() if line.startswith('error: ')]
    assert len(message) == 1
    assert 'trained on 8 classes, the data has 2' in message[0]


@pytest.mark.slow
def test_only_a_training_writes_the_config_of_a_work_dir(project, tested):
    """The config beside checkpoints describes them; a test writes its own into its log folder."""
    assert [path.name for path in project.work_dir.glob('*.py')] == ['repvit_maskrcnn_shapes.py']
    assert list((project.folder / 'deploy').glob('*.py')) == []
    assert len(list((project.folder / 'deploy').glob('*/repvit_maskrcnn_shapes.py'))) == 1
