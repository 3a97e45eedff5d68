"""RepViT and its peers as mobile backbones for dense prediction, from training to device.

Importing this package makes its backbones, hooks and initialisers known to OpenMMLab's registries and provides
`mmcv._ext` where mmcv was installed without its compiled extension; nothing else. Both happen the moment mmengine or
mmcv is there: neither is imported for it, so that `repvit-dense --help` and `repvit_dense.reparam` stay light.
"""

from repvit_dense import plugin
from repvit_dense.compat import mmcv_ops

__version__ = '0.1.0'

mmcv_ops.install()
plugin.install()
