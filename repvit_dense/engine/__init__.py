"""Hooks and loops that mmengine lacks. Importing this package registers them."""

from repvit_dense.compat import panoptic_api
from repvit_dense.compat.coco_metric import hotcoco_metric
from repvit_dense.compat.ssd_head import predicting_ssd_head
from repvit_dense.engine.fusing import DenseFuseHook
from repvit_dense.engine.guard import DenseNonFiniteLossHook, DenseSaveOnSignalHook
from repvit_dense.engine.loops import DenseEpochLoop, DenseIterLoop
from repvit_dense.engine.optimizer import DenseNoDecayOptimWrapperConstructor
from repvit_dense.engine.progress import DenseProgressHook
from repvit_dense.engine.recent import DenseRecentCheckpointHook
from repvit_dense.engine.report import DensePicturesHook, DenseReportHook

__all__ = [
    'DenseNoDecayOptimWrapperConstructor',
    'DenseNonFiniteLossHook',
    'DensePicturesHook',
    'DenseProgressHook',
    'DenseRecentCheckpointHook',
    'DenseReportHook',
    'DenseEpochLoop',
    'DenseIterLoop',
    'DenseSaveOnSignalHook',
    'DenseFuseHook',
    'hotcoco_metric',
    'predicting_ssd_head',
]

panoptic_api.install()  # mmdet looks for it once, when it is imported, and that comes after mmengine
