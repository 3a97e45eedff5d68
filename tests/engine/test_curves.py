"""The curves of a run and the page of its results."""

import json
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from repvit_dense.engine.curves import _draw_scores, _plot, _smooth, draw_curves, read_scalars, summarize
from repvit_dense.page import write_page


def log(work_dir, start, losses=(), scores=()):
    """Write the log of one start, from `(iteration, loss)` and `(epoch, score)` pairs."""
    folder = work_dir / start / 'vis_data'
    folder.mkdir(parents=True)
    records = [{'loss': x, 'loss_cls': x / 2, 'epoch': 1 + i // 100, 'iter': i, 'step': i} for i, x in losses]
    records += [{'coco/bbox_mAP': score, 'coco/bbox_mAP_s': -1.0, 'step': epoch} for epoch, score in scores]
    (folder / 'scalars.json').write_text(''.join(json.dumps(record) + '\n' for record in records))


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert('RGB')).astype(int)


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.sources, self.tags, self.text = [], [], ''
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name == 'src']

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    names = ['000001.png', 'a b.png', 'c#1?d%20.png', '<img src=x>&"quoted\'.png']
    return {folder / name: f'photos/{name}' for name in names if not (folder / name).touch()}


# --- curves ---


def test_a_run_draws_its_curves_and_logs_the_path(toy, tmp_path):
    toy(tmp_path).train()
    assert pixels(tmp_path / 'curves.png').shape == (900, 1000, 3)
    text = next(tmp_path.glob('*/*.log')).read_text()
    assert f'Curves: {tmp_path / "curves.png"}' in text
    assert f'Best checkpoint: {tmp_path / "best_toy_mAP_epoch_2.pth"} (score 0.0' in text
    assert not list(tmp_path.glob('*partial*'))


def test_losses_and_scores_are_drawn(tmp_path):
    pictures = {}
    for name, data in (
        ('empty', {}),
        ('losses', {'losses': [(50, 2.0), (100, 0.5), (150, 0.3)]}),
        ('scores', {'scores': [(1, 0.1), (2, 0.6)]}),
    ):
        log(tmp_path / name, '20250101_000000', **data)
        pictures[name] = pixels(draw_curves(tmp_path / name))
    empty = pictures['empty']
    assert empty.min() < 200 < empty.max()  # dark axes on a light background
    above, below = np.arange(350), np.arange(350, 720)
    changed = {name: (abs(picture - empty).max(axis=2) > 60) for name, picture in pictures.items()}
    assert changed['losses'][above].sum() > 500
    assert changed['scores'][below].sum() > 500


def test_secondary_scores_are_not_drawn(tmp_path):
    log(tmp_path / 'a', '20250101_000000', scores=[(1, 0.1), (2, 0.6)])
    text = (tmp_path / 'a/20250101_000000/vis_data/scalars.json').read_text()
    log(tmp_path / 'b', '20250101_000000')
    (tmp_path / 'b/20250101_000000/vis_data/scalars.json').write_text(text.replace('bbox_mAP_s', 'bbox_AR'))
    assert (pixels(draw_curves(tmp_path / 'a')) == pixels(draw_curves(tmp_path / 'b'))).all()


def test_scores_in_percent_are_drawn_as_fractions():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    _draw_scores(axes, [{'iter': 1, 'coco/bbox_mAP': 0.6, 'mIoU': 60.0, 'PQ': 6.0}])
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    assert lines == {'coco/bbox_mAP: best 0.600': [0.6], 'mIoU: best 0.600': [0.6], 'PQ: best 0.060': [0.06]}
    assert axes.get_ylim() == (0, 1)


@pytest.mark.parametrize('by_epoch', [True, False])
def test_scores_have_the_iteration_of_their_validation(tmp_path, by_epoch):
    folder = tmp_path / '20250101_000000/vis_data'
    folder.mkdir(parents=True)
    records = []
    for epoch in (1, 2, 3):
        losses = [{'loss': 1.0, 'epoch': epoch, 'iter': 40 * (epoch - 1) + i} for i in (20, 40)]
        records += [*losses, {'mAP': 0.5, 'step': epoch if by_epoch else 40 * epoch}]
    (folder / 'scalars.json').write_text(''.join(json.dumps(record) + '\n' for record in records))
    assert [record['iter'] for record in read_scalars(tmp_path)[1]] == [40, 80, 120]


def test_few_points_are_shown_and_many_are_smoothed(tmp_path):
    from matplotlib.figure import Figure

    noise = np.random.default_rng(0).normal(size=900)
    for count, lines in ((3, 1), (900, 2)):
        axes = Figure().subplots()
        _plot(axes, [(i, 5 + noise[i]) for i in range(count)], 'loss')
        assert len(axes.lines) == lines
        assert axes.lines[0].get_marker() == ('o' if count == 3 else 'None')
        assert [line.get_label() for line in axes.lines[-1:]] == ['loss']
    assert np.ptp(axes.lines[1].get_ydata()) < np.ptp(axes.lines[0].get_ydata()) / 3


def test_smoothing_keeps_a_line_and_its_ends():
    values = np.arange(50.0)
    assert _smooth(values, 4)[4:-4] == pytest.approx(values[4:-4])
    assert _smooth(np.full(7, 3.0), 100) == pytest.approx(3)


@pytest.mark.parametrize(
    'name, drawn', [('decode.loss_ce', True), ('aux.loss_ce', True), ('decode.d0.loss_cls', False)]
)
def test_losses_of_heads_are_drawn_unless_of_earlier_layers(tmp_path, name, drawn):
    pictures = []
    for folder, more in (('a', {}), ('b', {name: 0.5})):
        log(tmp_path / folder, '20250101_000000')
        records = [{'loss': 2.0 / i, 'iter': i, 'step': i, **more} for i in (1, 2)]
        path = tmp_path / folder / '20250101_000000/vis_data/scalars.json'
        path.write_text(''.join(json.dumps(record) + '\n' for record in records))
        pictures.append(pixels(draw_curves(tmp_path / folder)))
    assert (pictures[0] != pictures[1]).any() == drawn


def test_a_resumed_start_replaces_repeated_steps(tmp_path):
    log(tmp_path, '20250101_000000', losses=[(50, 5.0), (100, 4.0), (150, 3.0)], scores=[(1, 0.1)])
    log(tmp_path, '20250102_000000', losses=[(150, 3.5), (200, 2.0)], scores=[(2, 0.2)])
    losses, scores = read_scalars(tmp_path)
    assert [(record['step'], record['loss']) for record in losses] == [(50, 5.0), (100, 4.0), (150, 3.5), (200, 2.0)]
    assert [(record['step'], record['coco/bbox_mAP']) for record in scores] == [(1, 0.1), (2, 0.2)]


def test_a_new_training_in_the_same_folder_replaces_the_curves(tmp_path):
    log(tmp_path, '20250101_000000', losses=[(50, 5.0), (500, 1.0)], scores=[(1, 0.1), (5, 0.5)])
    log(tmp_path, '20250102_000000', losses=[(50, 4.0), (100, 3.0)], scores=[(1, 0.2)])
    losses, scores = read_scalars(tmp_path)
    assert [record['loss'] for record in losses] == [4.0, 3.0]
    assert [record['coco/bbox_mAP'] for record in scores] == [0.2]


def test_a_start_without_records_is_ignored(tmp_path):
    log(tmp_path, '20250101_000000', losses=[(50, 5.0)])
    log(tmp_path, '20250102_000000')
    assert len(read_scalars(tmp_path)[0]) == 1


def test_lines_that_a_killed_process_left_are_ignored(tmp_path):
    log(tmp_path, '20250101_000000', losses=[(50, 5.0)])
    with next(tmp_path.glob('*/vis_data/scalars.json')).open('a') as file:
        file.write('[]\n3\n{"loss": 1.0}\n{"mAP": 1.0}\n{"loss": 1.0, "it')
    assert [record['iter'] for record in read_scalars(tmp_path)[0]] == [50]
    assert read_scalars(tmp_path)[1] == []


def test_names_with_dollar_signs_are_no_formulas(tmp_path):
    log(tmp_path, '20250101_000000')
    path = next(tmp_path.glob('*/vis_data/scalars.json'))
    path.write_text(json.dumps({'loss': 1.0, 'loss_$\\frac$': 1.0, 'iter': 1, 'step': 1}))
    assert draw_curves(tmp_path).stat().st_size


def test_curves_that_cannot_be_drawn_do_not_end_the_training(tmp_path):
    (tmp_path / 'curves.png').mkdir()
    assert summarize(tmp_path, {})[0].startswith('Curves: cannot be drawn (')


def test_without_a_best_checkpoint_its_line_is_missing(tmp_path):
    assert len(summarize(tmp_path, {})) == 1
    lines = summarize(tmp_path, {'best_ckpt': 'best.pth', 'best_score': 0.12345})
    assert lines[1] == 'Best checkpoint: best.pth (score 0.123)'


# --- page ---


def test_links_are_relative_and_point_to_their_files(tmp_path, pictures):
    (tmp_path / 'curves.png').touch()
    path = write_page(tmp_path / 'pictures', 'title', pictures, 'caption', {}, {tmp_path / 'curves.png': 'Training'})
    assert path == tmp_path / 'pictures' / 'index.html'
    sources = Page(path).sources
    assert sources[0] == '../curves.png'
    assert not any(source.startswith('/') or ':' in source for source in sources)
    assert [(path.parent / unquote(source)).resolve() for source in sources[1:]] == list(pictures)
    assert all('#' not in source and '?' not in source for source in sources)


def test_names_are_escaped(tmp_path, pictures):
    metrics = {'coco/bbox_mAP': 0.3456, '<script>alert(1)</script>': 1.0}
    page = Page(write_page(tmp_path, '<script>t</script>', pictures, '<b>', metrics))
    assert page.tags.count('script') == 2  # the viewer; names add none
    assert page.tags.count('img') == len(pictures)
    for text in (
        '<script>t</script>',
        '<script>alert(1)</script>',
        'photos/<img src=x>&"quoted\'.png',
        'coco/bbox_mAP',
        '0.346',
    ):
        assert text in page.text


def test_a_page_without_pictures(tmp_path):
    page = Page(write_page(tmp_path, 'title', {}, 'caption', {'a': 1}, {tmp_path / 'no_curves.png': 'Training'}))
    assert page.sources == []
    assert 'Training' not in page.text
    assert [path.name for path in tmp_path.iterdir()] == ['index.html']
