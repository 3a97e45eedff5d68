"""Hooks, loops and the runner that mmengine lacks. Importing this package registers them."""

# Modules, not their functions: if one of them is imported first, it imports mmengine, which imports this package.
from repvit_dense.compat import coco_metric, label_assigner, panoptic_metric, ssd_head
from repvit_dense.engine.analysis.hook import DenseAnalysisHook
from repvit_dense.engine.batches import DenseBatchesHook
from repvit_dense.engine.curves import DenseCurvesHook
from repvit_dense.engine.fusing import DenseFuseHook
from repvit_dense.engine.guard import DenseNonFiniteLossHook, DenseSaveOnSignalHook
from repvit_dense.engine.loops import DenseEpochLoop, DenseIterLoop
from repvit_dense.engine.optimizer import DenseNoDecayOptimWrapperConstructor
from repvit_dense.engine.patience import DensePatienceHook
from repvit_dense.engine.pictures import DensePicturesHook
from repvit_dense.engine.progress import DenseProgressHook
from repvit_dense.engine.recent import DenseRecentCheckpointHook

__all__ = [
    'DenseAnalysisHook',
    'DenseBatchesHook',
    'DenseEpochLoop',
    'DenseFuseHook',
    'DenseIterLoop',
    'DenseNoDecayOptimWrapperConstructor',
    'DenseNonFiniteLossHook',
    'DensePatienceHook',
    'DensePicturesHook',
    'DenseProgressHook',
    'DenseRecentCheckpointHook',
    'DenseCurvesHook',
    'DenseSaveOnSignalHook',
    'coco_metric',
    'label_assigner',
    'panoptic_metric',
    'ssd_head',
]
