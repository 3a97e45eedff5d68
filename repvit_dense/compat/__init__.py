"""Every change this package makes to another library, one file each.

`CHANGES` lists them. Importing `repvit_dense` makes only the first; `patched` makes those of a training or test run and
undoes them when it ends. This module imports neither numpy nor torch, because `repvit_dense.artifact` uses the room.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple


class Change(NamedTuple):
    """One change to another library.

    Attributes:
        file: the module of this package that makes it.
        target: the object that differs while the change is in force.
        when: the moment at which it is made.
        undone: the moment at which it is undone, and how.
    """

    file: str
    target: str
    when: str
    undone: str


CHANGES = (
    Change(
        'mmcv_ops',
        'sys.meta_path: a last finder, which makes `mmcv._ext` importable where mmcv was built without it',
        'import repvit_dense',
        'never; a compiled extension has precedence',
    ),
    Change(
        'panoptic_api',
        '`panopticapi` in sys.modules and its names in modules of mmdet, where panopticapi is not installed',
        'run',
        'at the end of the run: modules removed, names restored',
    ),
    Change(
        'safe_loading',
        'CheckpointLoader._schemes of mmengine: every scheme loads through the safe reader',
        'run',
        'at the end of the run: loaders restored',
    ),
    Change(
        'child_processes',
        'current_process()._config of multiprocessing: one entry that prepares spawned workers',
        'run',
        'at the end of the run: entry removed',
    ),
    Change(
        'rescaling',
        'mmcv.image.geometric._scale_size: a side has at least one pixel',
        'run; prediction of an image',
        'at the end of the run or image: function restored',
    ),
    Change(
        'distributed',
        'torch.cuda.set_device: does nothing on a machine without a GPU',
        'start of the process group of a run',
        'as soon as the process group exists',
    ),
    Change(
        'quiet',
        'sys.stdout and warnings.showwarning: notices of other libraries go to the log file instead of the screen',
        'a command without --verbose, or its function of the Python API',
        'at the end of the command: both restored',
    ),
    Change(
        'device',
        'mmengine.device.utils.DEVICE, and torch.cuda.is_available for `cpu`: the device that --device names',
        'train or test with --device',
        'at the end of the run: both restored',
    ),
    Change(
        'coco_metric',
        'names in the module of mmdet.evaluation.CocoMetric: hotcoco in place of pycocotools',
        'construction and evaluation of a DenseCocoMetric',
        'at the end of that call',
    ),
    Change(
        'coco_api', 'nothing: classes on hotcoco and pycocotools, which coco_metric uses', 'never', 'nothing to undo'
    ),
    Change('panoptic_metric', 'nothing: a subclass of mmdet.evaluation.CocoPanopticMetric', 'never', 'nothing to undo'),
    Change('ssd_head', '`loss_cls` of one SSDHead instance', 'construction of a DenseSSDHead', 'with the instance'),
    Change(
        'label_assigner',
        '`center_of_mass` in the module of mmdet.models.task_modules.DynamicSoftLabelAssigner: a faster one',
        'assignment by a DenseSoftLabelAssigner',
        'at the end of that call',
    ),
    Change('flop_counter', 'nothing: a FlopCounterMode that counts one more operator', 'never', 'nothing to undo'),
    Change(
        'signal_stack',
        'the signal stack of the thread, which OpenVINO replaces',
        'loading and quantising of an OpenVINO model',
        'at the end of that call: the stack is the one from before it',
    ),
)


@contextmanager
def patched(read: Callable) -> Iterator[None]:
    """Make the changes of a run, and undo them at the end or after an error. May be nested.

    Args:
        read: reader that mmengine's checkpoint loading goes through, `read(source, map_location) -> dict`.
    """
    from repvit_dense.compat import child_processes, panoptic_api, rescaling, safe_loading

    with ExitStack() as changes:
        changes.enter_context(panoptic_api.patched())
        changes.enter_context(safe_loading.patched(read))
        changes.enter_context(rescaling.patched())
        changes.enter_context(child_processes.patched())
        yield
