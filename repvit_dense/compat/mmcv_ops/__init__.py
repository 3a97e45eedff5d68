"""`mmcv._ext` without a compiler: the ops that detectors and segmentors use, on torchvision and torch.

mmcv calls its compiled ops through one extension module; where that was never built, `import mmcv.ops` fails with "No
module named 'mmcv._ext'". `install` makes the module importable: a finder at the end of `sys.meta_path` answers for
that one name. Python asks it only after its own finders found no file, so a compiled extension has precedence.

Each op has the name, argument order and keywords of mmcv's, runs on any device and returns mmcv's numbers. If mmcv's
CPU and CUDA kernels disagree, or read out of bounds, the docstring says which answer is returned here. An op without a
fallback raises NotImplementedError when it is called: importing and building models never fails because of it.

The ops, and with them torch, are imported together with `mmcv._ext`: `import repvit_dense` only calls `install`.
"""

from repvit_dense.compat.mmcv_ops.finder import EXTENSION, Finder, install

__all__ = ['EXTENSION', 'Finder', 'install']
