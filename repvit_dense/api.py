"""The Python API: the verbs of the command line, with the same options and defaults.

import repvit_dense as rd

run = rd.train('repvit_rtmdet-ins_coco', backbone='m0_9', data='my_folder', epochs=20)
model = rd.load(run.folder)
result = model('photo.jpg')
result.save('out.jpg')
artifact = model.export('onnx')
"""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from repvit_dense.commands import card as _card
from repvit_dense.commands import export as _export
from repvit_dense.commands import load as _load
from repvit_dense.commands import predict as _predict
from repvit_dense.commands import push as _push
from repvit_dense.commands import serve as _serve
from repvit_dense.commands import test as _test
from repvit_dense.commands import train as _train
from repvit_dense.commands.list import list_backbones, list_configs
from repvit_dense.compat.quiet import quiet
from repvit_dense.options import check

__all__ = ['card', 'export', 'list_backbones', 'list_configs', 'load', 'predict', 'push', 'serve', 'test', 'train']

P = ParamSpec('P')
Settings = TypeVar('Settings')
Outcome = TypeVar('Outcome')


def _verb(options: Callable[P, Settings], run: Callable[[Settings], Outcome]) -> Callable[P, Outcome]:
    """Return `run` as a function of the fields of its options dataclass."""

    @functools.wraps(run)
    def verb(*args: P.args, **kwargs: P.kwargs) -> Outcome:
        settings = options(*args, **kwargs)
        check(settings)
        with quiet(getattr(settings, 'verbose', False)):
            return run(settings)

    fields = getattr(options, '__dataclass_fields__', {})
    lines = [f'    {name}: {field.metadata["help"]}.' for name, field in fields.items() if 'help' in field.metadata]
    summary, _, rest = (run.__doc__ or '').partition('\n')
    verb.__doc__ = f'{summary}\n\nArgs:\n' + '\n'.join(lines) + '\n' + inspect.cleandoc(rest)
    verb.__signature__ = inspect.signature(options)  # type: ignore[attr-defined]
    return verb


train = _verb(_train.Options, _train.run)
test = _verb(_test.Options, _test.run)
predict = _verb(_predict.Options, _predict.run)
export = _verb(_export.Options, _export.run)
load = _verb(_load.Options, _load.run)
serve = _verb(_serve.Options, _serve.run)
card = _verb(_card.Options, _card.run)
push = _verb(_push.Options, _push.run)
