"""The export formats: one row per format."""

from typing import NamedTuple

PRECISIONS = ('fp32', 'fp16', 'int8')
DYNAMIC = ('batch', 'size')


class Target(NamedTuple):
    """One export format.

    Attributes:
        module: name of the module that writes it, in `repvit_dense.exporting.formats`, and of the module that runs it,
            in `repvit_dense.artifact.runtimes`.
        model: name of the model file; for Core ML of a folder.
        precisions: subset of `PRECISIONS`.
        dynamic: dimensions that may stay open, of `DYNAMIC`.
        batches: whether it supports a batch size above 1.
        plain: whether it needs the graph of plain operators, see `repvit_dense.exporting.graphs.base.Graph`.
        extra: extra of this package that installs it; None if torch is enough.
        modules: modules that must be importable.
        int8_modules: modules that int8 needs in addition; the extra `EXTRA-int8` installs them too.
        platform: value of `sys.platform` on which artifacts run; None for any.
    """

    module: str
    model: str
    precisions: tuple[str, ...]
    dynamic: tuple[str, ...]
    batches: bool
    plain: bool
    extra: str | None
    modules: tuple[str, ...]
    int8_modules: tuple[str, ...] = ()
    platform: str | None = None


TARGETS = {
    'onnx': Target(
        'onnx', 'model.onnx', PRECISIONS, DYNAMIC, True, False, 'onnx', ('onnx', 'onnxscript', 'onnxruntime')
    ),
    'openvino': Target(
        'openvino',
        'model.xml',
        PRECISIONS,
        DYNAMIC,
        True,
        False,
        'openvino',
        ('openvino', 'onnx', 'onnxscript'),
        int8_modules=('nncf',),
    ),
    'coreml': Target(
        'coreml',
        'model.mlpackage',
        ('fp32', 'fp16'),
        (),
        False,
        True,
        'coreml',
        ('coremltools',),
        platform='darwin',
    ),
    'executorch': Target('executorch', 'model.pte', ('fp32',), (), True, True, 'executorch', ('executorch',)),
    'torch': Target('torch_export', 'model.pt2', ('fp32',), DYNAMIC, True, False, None, ()),
}
