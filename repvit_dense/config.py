"""Load a config, apply the options of a command, and check it before anything heavy starts."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config

PACKAGE = Path(__file__).parent
# In a checkout configs/ lies beside the package; in an installed wheel inside it.
CONFIG_FOLDERS = (PACKAGE.parent / 'configs', PACKAGE / '.mim' / 'configs')

GET_COCO = (
    'COCO 2017 (cocodataset.org/#download) unpacks to train2017/, val2017/ and annotations/; put or link it there, or '
    'change data_root in the config. '
    'To train without any download: python tools/train.py configs/repvit_maskrcnn_shapes.py'
)


def load(path: str | Path, options: list[str] | None = None) -> 'Config':
    """Read a config file, by path or by the name of a packaged one, and apply `key=value` options.

    Raises:
        InputError: no such file, a config that cannot be read, an option that is not `key=value`.
    """
    file = find(path)
    from mmengine.config import Config  # takes seconds; a mistyped name need not wait for it

    try:
        cfg = Config.fromfile(file)
    except Exception as error:  # a config is Python: anything can go wrong in it
        raise InputError(f'{file}: cannot read this config: {type(error).__name__}: {error}') from error
    for option in options or ():
        _apply_option(cfg, option)
    return cfg


def find(path: str | Path) -> Path:
    """The config file at this path, or the packaged one of this name, with or without `configs/` and `.py`."""
    path = Path(path)
    candidates = [path]
    if path.parent in (Path(), Path('configs')):  # anything else is a path of one's own, mistyped
        candidates += [folder / name for folder in CONFIG_FOLDERS for name in (path.name, f'{path.name}.py')]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = sorted({file.stem for folder in CONFIG_FOLDERS for file in folder.glob('*.py')})
    raise InputError(f'{path}: no such config file. Packaged ones: {", ".join(known)}')


def _apply_option(cfg: 'Config', option: str) -> None:
    from mmengine.config import DictAction

    key, equals, value = option.partition('=')
    if not key or not equals:
        raise InputError(f"--cfg-options takes key=value pairs, such as train_cfg.max_epochs=1; got '{option}'")
    section = key.partition('.')[0]
    similar = difflib.get_close_matches(section, cfg, n=1, cutoff=0.8)
    if section not in cfg and similar:
        raise InputError(f"--cfg-options {option}: this config has no '{section}'; did you mean '{similar[0]}'?")
    # mmengine's parser of lists drops spaces, which a path may have.
    parse = DictAction._parse_iterable if set(value) & set('[](),') else DictAction._parse_int_float_bool
    try:
        cfg.merge_from_dict({key: parse(value.strip('\'"'))})
    except (AssertionError, KeyError, TypeError) as error:
        raise InputError(f'--cfg-options {option}: cannot be applied to this config ({_text(error)})') from error


def _text(error: Exception) -> str:
    """What an error says, on one line; `str` of a KeyError is quoted."""
    return ' '.join(str(error.args[0] if error.args else error).split())


def prepare_data(cfg: 'Config') -> None:
    """Draw the embedded data set, where the config asks for it and it is not there yet."""
    embedded = cfg.get('embedded_data')
    if not embedded:
        return
    from tqdm import tqdm

    from repvit_dense.data import shapes

    with tqdm(desc='drawing shapes', leave=False, disable=None) as bar:

        def show(done, total):
            bar.total = total
            bar.update(done - bar.n)

        try:
            shapes.generate(**embedded, progress=show)
        except (TypeError, ValueError) as error:
            raise InputError(f'embedded_data of the config: {_text(error)}') from error


def check(cfg: 'Config', splits: tuple[str, ...]) -> None:
    """Refuse what would fail, or silently go wrong, later on: data, class names, counts, channels.

    Args:
        cfg: a whole detector config.
        splits: which data to look at, of 'train', 'val', 'test'.

    Raises:
        InputError: says what is wrong, where, and what to do.
    """
    import mmdet.datasets  # noqa: F401  registers them
    from mmengine.registry import init_default_scope

    init_default_scope(cfg.get('default_scope', 'mmdet'))
    _check_channels(cfg)
    seen = set()
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        for dataset in _datasets(loader.dataset) if loader else ():
            key = (str(dataset.get('data_root')), str(dataset.get('ann_file')))
            if key not in seen:
                seen.add(key)
                _check_coco(dataset, cfg)
        evaluator = cfg.get(f'{split}_evaluator')
        for part in evaluator if isinstance(evaluator, list) else [evaluator]:
            if part and part.get('ann_file') and not Path(part['ann_file']).is_file():
                raise InputError(f'{part["ann_file"]}: no such annotation file ({split}_evaluator). {GET_COCO}')


def _datasets(dataset: dict) -> Iterator[dict]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    if inner is None:
        yield dataset
        return
    for part in inner:
        yield from _datasets(part)


def _check_coco(dataset: dict, cfg: 'Config') -> None:
    from mmdet.datasets import CocoDataset
    from mmdet.registry import DATASETS

    kind = DATASETS.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
    if kind is None or not issubclass(kind, CocoDataset):
        return
    root = Path(dataset.get('data_root') or '')
    file = root / dataset.ann_file
    images = root / (dataset.get('data_prefix') or {}).get('img', '')
    for path in (file, images):
        if not path.exists():
            raise InputError(f'{path}: not found. {GET_COCO}')
    content = _read_coco(file)
    classes = (dataset.get('metainfo') or {}).get('classes') or kind.METAINFO['classes']
    _check_classes(file, [category['name'] for category in content['categories']], list(classes))
    for where, count in _class_counts(cfg.model):
        if count != len(classes):
            raise InputError(
                f'{where} = {count}, but the data has {len(classes)} classes ({file}). '
                f'Set it: --cfg-options {where}={len(classes)}'
            )
    present = {str(path.relative_to(images)) for path in images.rglob('*') if path.is_file()}
    missing = [image['file_name'] for image in content['images'] if image['file_name'] not in present]
    if missing:
        raise InputError(
            f'{images}: {len(missing)} of the {len(content["images"])} images that {file} lists are not there '
            f'({", ".join(missing[:3])}{", ..." if len(missing) > 3 else ""}). Is the download complete?'
        )


def _read_coco(file: Path) -> dict:
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f'{file}: not JSON ({error}); COCO instance annotations are expected') from error
    wanted = ('images', 'annotations', 'categories')
    lacking = [key for key in wanted if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if lacking:
        raise InputError(f'{file}: not COCO instance annotations, it lacks a list of {", ".join(lacking)}')
    return content


def _check_classes(file: Path, in_file: list[str], in_config: list[str]) -> None:
    """Names must match, and in order: mmdet numbers classes as the file lists them."""
    missing = [name for name in in_config if name not in in_file]
    if missing:
        raise InputError(
            f'{file} has no class {", ".join(missing[:5])}{", ..." if len(missing) > 5 else ""}; it has '
            f'{", ".join(in_file[:10])}{", ..." if len(in_file) > 10 else ""}. Name the classes of your data in '
            "the config, for train, val and test: dataset=dict(metainfo=dict(classes=('...', ...)))"
        )
    shared = [name for name in in_file if name in in_config]
    if shared != in_config:
        first = next(i for i, (a, b) in enumerate(zip(shared, in_config, strict=True)) if a != b)
        raise InputError(
            f"{file} and the config order the classes differently (number {first}: '{shared[first]}' in the file, "
            f"'{in_config[first]}' in the config), so labels would shift. Use the order of the file."
        )


def _class_counts(model: dict, path: str = 'model') -> Iterator[tuple[str, int]]:
    for key, value in model.items():
        if key == 'num_classes':
            yield f'{path}.{key}', value
        elif isinstance(value, dict) and key not in ('backbone', 'rpn_head'):
            yield from _class_counts(value, f'{path}.{key}')
        elif isinstance(value, list):  # the stages of a cascade
            yield from _class_counts({str(i): part for i, part in enumerate(value)}, f'{path}.{key}')


def _check_channels(cfg: 'Config') -> None:
    """The first part after the backbone must take the channels that the backbone gives."""
    if not cfg.model.get('backbone'):
        return
    channels = getattr(_build_without_memory(cfg.model.backbone), 'out_channels', None)
    name = next((name for name in ('neck', 'decode_head', 'bbox_head') if cfg.model.get(name)), None)
    if channels is None or name is None or isinstance(cfg.model[name], list):
        return
    wanted = cfg.model[name].get('in_channels')
    if isinstance(wanted, list | tuple) and list(wanted) != list(channels):
        raise InputError(
            f'model.{name}.in_channels = {list(wanted)}, but the backbone gives {list(channels)}. '
            f'Set it: --cfg-options model.{name}.in_channels={",".join(map(str, channels))}'
        )


def _build_without_memory(backbone: dict):
    import torch
    from mmdet.registry import MODELS

    try:
        try:
            with torch.device('meta'):
                return MODELS.build(backbone)
        except (NotImplementedError, RuntimeError):  # reads a value while it is built: Swin's drop path rates
            return MODELS.build(backbone)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise InputError(f'model.backbone: {_text(error)}') from error
