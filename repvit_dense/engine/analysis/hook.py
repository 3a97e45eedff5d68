"""Analyse a test after its scores are written."""

import json
from collections.abc import Iterable
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from repvit_dense.artifact.images import warn
from repvit_dense.engine.analysis.regions import Pixels, Segments
from repvit_dense.engine.analysis.report import Report
from repvit_dense.engine.analysis.worst import Bad
from repvit_dense.engine.per_class import rows
from repvit_dense.engine.pictures import DensePicturesHook
from repvit_dense.errors import InputError
from repvit_dense.files import write_text


@HOOKS.register_module()
class DenseAnalysisHook(Hook):
    """A hook that writes the scores of a test, and an analysis of them.

    The scores are written first. An error in the analysis is reported and does not end the test.

    Args:
        folder: of the files.
        title: heading of the page.
        subject: the data and the model in words, for `scores.json`.
        split: name of the split, for the line of scores.
    """

    priority = 'VERY_LOW'  # after the pictures of all images

    def __init__(self, folder: str, title: str = '', subject: str = '', split: str = ''):
        self.folder, self.title, self.subject, self.split = Path(folder), title, subject, split
        self.page: Path | None = None
        self._regions: Pixels | Segments | None = None
        self._failed = False

    def before_test_epoch(self, runner) -> None:
        """Prepare the counts."""
        evaluator, dataset = runner.test_evaluator, runner.test_dataloader.dataset
        evaluator.keep_evaluations = True
        names = list(getattr(dataset, 'metainfo', {}).get('classes') or ())
        for metric in evaluator.metrics:
            if getattr(metric, 'seg_prefix', None) and hasattr(metric, 'counts') and metric._coco_api:
                self._regions, self._segments = Segments(names, len(dataset)), metric
                numbers = metric._coco_api.get_cat_ids(cat_names=names)
                self._labels = {None: None, **{number: label for label, number in enumerate(numbers)}}
            elif hasattr(metric, 'intersect_and_union') and not metric.format_only:
                self._regions = Pixels(names, len(dataset))
                self._regions.ignored = metric.ignore_index

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Count the pixels or segments of one batch."""
        if self._regions is None or self._failed:
            return
        try:
            if isinstance(self._regions, Pixels):
                for sample in outputs:
                    self._regions.add(sample)
            else:
                for sample, stat in zip(outputs, self._segments.results[-len(outputs) :], strict=True):
                    self._regions.add(sample, self._to_labels(stat.pairs))
        except Exception as error:
            self._fail(error)

    def _to_labels(self, pairs: Iterable[tuple]) -> list[tuple]:
        known = [pair for pair in pairs if self._labels.keys() >= {*pair}]  # a file may have more classes than the data
        return [(self._labels[true], self._labels[predicted]) for true, predicted in known]

    def _fail(self, error: Exception) -> None:
        self._failed = True
        warn(f'the scores are complete, but not their analysis ({type(error).__name__}: {error})')

    def after_test_epoch(self, runner, metrics=None) -> None:
        """Write the scores, then the analysis.

        Raises:
            InputError: the scores cannot be written.
        """
        worst = self._regions.gather() if self._regions else []  # by every process
        if not is_main_process():
            return
        classes = rows(runner)
        content = {'test': self.subject, 'scores': metrics, 'classes': classes}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / 'scores.json', json.dumps(content, indent=1, default=float) + '\n')
        except OSError as error:
            raise InputError(f'{error.filename or self.folder}: {error.strerror}; the scores are {metrics}') from error
        try:
            self._write_report(runner, dict(metrics or {}), classes, worst)
        except Exception as error:
            self._fail(error)
        finally:
            for metric in runner.test_evaluator.metrics:
                getattr(metric, 'evaluations', {}).clear()

    def _write_report(self, runner, metrics: dict[str, float], classes: list[dict], worst: list[Bad]) -> None:
        dataset = runner.test_dataloader.dataset
        report = Report(self.folder, dict(dataset.metainfo), classes)
        found = [getattr(metric, 'evaluations', {}) for metric in runner.test_evaluator.metrics]
        evaluations = {kind: each for part in found for kind, each in part.items() if each.params.useCats}
        if evaluations:  # masks are the last, if there are any
            report.add_thresholds(*list(evaluations.items())[-1])
        if self._regions:
            report.add_regions(self._regions, worst)
        elif evaluations:
            infos = (dataset.get_data_info(index) for index in range(len(dataset)))
            files = {info['img_id']: info['img_path'] for info in infos}
            report.add_detections(*list(evaluations.items())[-1], files=files)
        report.write_tables()
        drawn = next((hook.pictures() for hook in runner.hooks if isinstance(hook, DensePicturesHook)), {})
        weights = runner.cfg.get('load_from')
        curves = Path(weights).absolute().parent / 'curves.png' if weights else None
        self.page = report.write_page(self.title, metrics, drawn, curves)
        report.send_to_tensorboard(runner)
