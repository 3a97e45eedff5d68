"""Hooks and loops that mmengine lacks. Importing this package registers them."""

from repvit_dense.compat import panoptic_api
from repvit_dense.compat.coco_metric import hotcoco_metric
from repvit_dense.compat.ssd_head import predicting_ssd_head
from repvit_dense.engine.fusing import SwitchToDeployHook
from repvit_dense.engine.guard import NonFiniteLossHook, SaveOnSignalHook
from repvit_dense.engine.loops import ResumableEpochLoop, ResumableIterLoop
from repvit_dense.engine.optimizer import NoDecayOptimWrapperConstructor
from repvit_dense.engine.progress import ProgressHook
from repvit_dense.engine.recent import RecentCheckpointHook
from repvit_dense.engine.report import PicturesHook, ReportHook

__all__ = [
    'NoDecayOptimWrapperConstructor',
    'NonFiniteLossHook',
    'PicturesHook',
    'ProgressHook',
    'RecentCheckpointHook',
    'ReportHook',
    'ResumableEpochLoop',
    'ResumableIterLoop',
    'SaveOnSignalHook',
    'SwitchToDeployHook',
    'hotcoco_metric',
    'predicting_ssd_head',
]

panoptic_api.install()  # mmdet looks for it once, when it is imported, and that comes after mmengine
