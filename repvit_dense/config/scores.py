"""Check the names of the scores that the metrics of a config compute."""

import re
from typing import TYPE_CHECKING

from repvit_dense.config.structure import metrics
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config

# Metric of mmseg -> its scores; metric of mmdet -> the pattern of its scores.
SEMANTIC = {'mIoU': ('mIoU', 'mAcc'), 'mDice': ('mDice', 'mAcc'), 'mFscore': ('mFscore', 'mPrecision', 'mRecall')}
COCO = ('bbox', 'segm', 'proposal', 'proposal_fast')
AVERAGE_PRECISION = r'(_50|_75|_s|_m|_l)?'


def check_scores(cfg: 'Config') -> None:
    """Refuse a metric that does not exist, and a best checkpoint by a score that the validation does not compute.

    Both would end a training at its first validation.

    Raises:
        InputError: names the scores that are possible.
    """
    patterns: list[str] | None = []
    for split in ('val', 'test'):
        for i, part in enumerate(metrics(cfg, split)):
            known = _patterns(
                part, f'{split}_evaluator' + (f'.{i}' if isinstance(cfg[f'{split}_evaluator'], list) else '')
            )
            if split == 'val' and patterns is not None:
                patterns = None if known is None else patterns + known
    best = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('save_best')
    for name in best if isinstance(best, list | tuple) else [best]:
        if not isinstance(name, str | None):
            raise InputError(f'default_hooks.checkpoint.save_best = {name!r}: must be the name of a score')
        if patterns and name not in (None, 'auto') and not any(re.fullmatch(pattern, name) for pattern in patterns):
            names = ', '.join(pattern.replace(AVERAGE_PRECISION, '') for pattern in patterns)
            raise InputError(f"default_hooks.checkpoint.save_best = '{name}': not a score of val_evaluator ({names})")


def _patterns(part: dict, path: str) -> list[str] | None:
    """Return the patterns of the scores of a metric; None for a metric that is not known here."""
    kind = part.get('type')
    if kind == 'IoUMetric':
        chosen = _names(part.get('iou_metrics', ['mIoU']), tuple(SEMANTIC), f'{path}.iou_metrics')
        prefix = f'{part["prefix"]}/' if part.get('prefix') else ''
        return [prefix + score for score in ('aAcc', *(score for name in chosen for score in SEMANTIC[name]))]
    if kind in ('CocoMetric', 'DenseCocoMetric'):
        chosen = _names(part.get('metric', 'bbox'), COCO, f'{path}.metric')
        prefix = part.get('prefix') or 'coco'
        if 'proposal' in chosen or 'proposal_fast' in chosen or part.get('classwise') or part.get('metric_items'):
            return None
        return [f'{prefix}/{name}_mAP{AVERAGE_PRECISION}' for name in chosen]
    if kind in ('CocoPanopticMetric', 'DensePanopticMetric'):
        prefix = part.get('prefix') or 'coco_panoptic'
        return [f'{prefix}/{score}{suffix}' for score in ('PQ', 'SQ', 'RQ') for suffix in ('', '_th', '_st')]
    return None


def _names(chosen: object, known: tuple[str, ...], path: str) -> list[str]:
    names = [chosen] if isinstance(chosen, str) else chosen
    if not isinstance(names, list | tuple) or not names or any(name not in known for name in names):
        raise InputError(f'{path} = {chosen!r}: must be some of {", ".join(known)}')
    return list(names)
