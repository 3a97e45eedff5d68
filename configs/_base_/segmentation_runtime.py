# The runtime of mmseg's segmentors: counted in iterations, the best state by mIoU.
_base_ = './iter_runtime.py'
default_scope = 'mmseg'

default_hooks = dict(
    checkpoint=dict(interval=4000, save_best='mIoU'),
)
visualizer = dict(type='SegLocalVisualizer')
