"""The files that a test leaves."""

import csv
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmengine.evaluator import Evaluator
from mmengine.visualization import TensorboardVisBackend

from repvit_dense.compat.coco_metric import dense_coco_metric
from repvit_dense.engine.analysis import report
from repvit_dense.engine.analysis.hook import DenseAnalysisHook
from repvit_dense.engine.per_class import observe
from tests.compat.scoring import names
from tools.pages import coco_evaluation


@pytest.fixture
def run(tmp_path):
    """Return `run()`, which tests drawn detections; it returns the hook and the folder."""
    truth, results = coco_evaluation.draw(images=3, objects=4, classes=2, seed=0)
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    cv2.imwrite(str(tmp_path / 'image.png'), np.full((480, 640, 3), 120, np.uint8))
    backend = TensorboardVisBackend(str(tmp_path / 'log'))

    class Data:
        metainfo = {'classes': names(truth), 'palette': None}
        __len__ = lambda self: 3  # noqa: E731

        def get_data_info(self, index):
            return {'img_id': truth['images'][index]['id'], 'img_path': str(tmp_path / 'image.png')}

    def call():
        metric = dense_coco_metric(ann_file=str(tmp_path / 'truth.json'), metric=['bbox', 'segm'])
        evaluator = observe(Evaluator([metric]))
        evaluator.dataset_meta = Data.metainfo
        runner = SimpleNamespace(
            test_evaluator=evaluator,
            test_dataloader=SimpleNamespace(dataset=Data()),
            hooks=[],
            cfg={'load_from': str(tmp_path / 'best.pth')},
            visualizer=SimpleNamespace(_vis_backends={'board': backend}),
            _test_loop=SimpleNamespace(evaluator=evaluator),
            _val_loop=None,
        )
        hook = DenseAnalysisHook(str(tmp_path / 'out'), 'my title', 'best.pth on val')
        hook.before_test_epoch(runner)
        hook.after_test_iter(runner, 0, outputs=[])
        metric.results = list(results)
        hook.after_test_epoch(runner, evaluator.evaluate(3))
        assert metric.evaluations == {}
        return hook, tmp_path / 'out'

    return call


def test_a_test_leaves_scores_tables_figures_and_the_worst_images(run, tmp_path):
    hook, folder = run()
    files = {'scores.json', 'per_class.csv', 'confusion.csv', 'confusion.png', 'precision_recall.png', 'index.html'}
    assert {path.name for path in folder.iterdir()} == {*files, 'worst'}
    content = json.loads((folder / 'scores.json').read_text())
    assert content['test'] == 'best.pth on val'
    rows = list(csv.DictReader((folder / 'per_class.csv').read_text().splitlines()))
    assert [row['class'] for row in rows] == [row['class'] for row in content['classes']]
    assert {'box AP', 'mask AP50', 'F1', 'at score'} < set(rows[0])
    assert content['scores']['coco/bbox_mAP'] > 0
    assert hook.page == folder / 'index.html'
    page = hook.page.read_text()
    for text in (
        'my title',
        'missed',
        '"quality": -',
        'src="confusion.png"',
        'src="worst/image.jpg"',
        'src="worst/image-3.jpg"',
    ):
        assert text in page
    assert list((tmp_path / 'log').glob('events*'))


def test_pictures_of_an_earlier_test_are_replaced_and_other_files_stay(run):
    _, folder = run()
    (folder / 'worst/mine.jpg').write_bytes(b'mine')
    before = sorted(path.name for path in (folder / 'worst').iterdir())
    run()
    assert sorted(path.name for path in (folder / 'worst').iterdir()) == before


def test_an_error_in_the_analysis_loses_no_scores(run, monkeypatch, capsys):
    monkeypatch.setattr(report.confusion, 'draw', lambda *args: [][0])
    hook, folder = run()
    assert hook.page is None
    assert 'coco/bbox_mAP' in (folder / 'scores.json').read_text()
    assert 'the scores are complete, but not their analysis (IndexError' in capsys.readouterr().err
