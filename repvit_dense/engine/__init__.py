"""Hooks and loops that mmengine lacks. Importing this package registers them."""

from repvit_dense.engine.deploy import SwitchToDeployHook
from repvit_dense.engine.guard import NonFiniteLossHook, SaveOnSignalHook
from repvit_dense.engine.loops import ResumableEpochLoop
from repvit_dense.engine.progress import ProgressHook
from repvit_dense.engine.report import ReportHook

__all__ = [
    'NonFiniteLossHook',
    'ProgressHook',
    'ReportHook',
    'ResumableEpochLoop',
    'SaveOnSignalHook',
    'SwitchToDeployHook',
]
