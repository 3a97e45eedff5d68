"""Hooks, loops and the runner that mmengine lacks. Importing this package registers them."""

from repvit_dense.compat.coco_metric import dense_coco_metric
from repvit_dense.compat.panoptic_metric import dense_panoptic_metric
from repvit_dense.compat.ssd_head import dense_ssd_head
from repvit_dense.engine.curves import DenseCurvesHook
from repvit_dense.engine.fusing import DenseFuseHook
from repvit_dense.engine.guard import DenseNonFiniteLossHook, DenseSaveOnSignalHook
from repvit_dense.engine.loops import DenseEpochLoop, DenseIterLoop
from repvit_dense.engine.optimizer import DenseNoDecayOptimWrapperConstructor
from repvit_dense.engine.pictures import DensePicturesHook
from repvit_dense.engine.progress import DenseProgressHook
from repvit_dense.engine.recent import DenseRecentCheckpointHook

__all__ = [
    'DenseEpochLoop',
    'DenseFuseHook',
    'DenseIterLoop',
    'DenseNoDecayOptimWrapperConstructor',
    'DenseNonFiniteLossHook',
    'DensePicturesHook',
    'DenseProgressHook',
    'DenseRecentCheckpointHook',
    'DenseCurvesHook',
    'DenseSaveOnSignalHook',
    'dense_coco_metric',
    'dense_panoptic_metric',
    'dense_ssd_head',
]
