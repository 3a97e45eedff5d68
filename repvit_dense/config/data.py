"""Prepare the data of a config, and compare its classes with those of a checkpoint."""

from typing import TYPE_CHECKING

from repvit_dense import plugin
from repvit_dense.config.structure import datasets, one_line
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config, ConfigDict


def prepare_data(cfg: 'Config') -> None:
    """Draw the embedded data set if the config uses it and it does not exist yet.

    Raises:
        InputError: `embedded_data` has wrong arguments, or its folder contains other files.
    """
    embedded = cfg.get('embedded_data')
    if not embedded:
        return
    from tqdm import tqdm

    from repvit_dense.data import shapes

    with tqdm(desc='drawing shapes', leave=False, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            shapes.generate(**embedded, progress=show)
        except (TypeError, ValueError) as error:
            raise InputError(f'embedded_data of the config: {one_line(error)}') from error


def dataset_meta(dataset: 'ConfigDict', scope: str) -> dict:
    """Return the classes and colours of a data set, from its type and its `metainfo`."""
    plugin.load()
    import mmseg.datasets  # noqa: F401  registers its data sets
    from mmengine.registry import DATASETS

    dataset = next(datasets(dataset))
    with DATASETS.switch_scope_and_registry(scope) as registry:
        return dict(registry.get(dataset.type)._load_metainfo(dataset.get('metainfo')))


def trained_classes(checkpoint: dict) -> list[str] | None:
    """Return the classes that a checkpoint was trained on, in order; mmdet 2 and mmseg 0 stored them as `CLASSES`."""
    meta = checkpoint.get('meta')
    if not isinstance(meta, dict):
        return None
    classes = (meta.get('dataset_meta') or {}).get('classes') or meta.get('CLASSES')
    return list(classes) if classes else None


def check_trained_classes(cfg: 'Config', checkpoint: dict) -> None:
    """Refuse a checkpoint whose classes differ from those of the test data: all names and scores would be wrong.

    Raises:
        InputError: names the first class that differs.
    """
    trained = trained_classes(checkpoint)
    if trained is None or not cfg.get('test_dataloader'):
        return
    classes = list(dataset_meta(cfg.test_dataloader.dataset, cfg.get('default_scope', 'mmdet'))['classes'])
    if trained == classes:
        return
    differing = [i for i, (a, b) in enumerate(zip(trained, classes, strict=False)) if a != b]
    first = differing[0] if differing else min(len(trained), len(classes))
    in_checkpoint, in_data = (f"'{names[first]}'" if first < len(names) else 'none' for names in (trained, classes))
    raise InputError(
        f'{cfg.get("load_from") or "the checkpoint"}: trained on {len(trained)} classes, the data has {len(classes)}; '
        f'they first differ at class {first}: checkpoint {in_checkpoint}, data {in_data}. Use data with the classes of '
        'the checkpoint, or fine-tune it on this data: train CONFIG --data DIR --from CHECKPOINT'
    )
