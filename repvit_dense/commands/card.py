"""`repvit-dense card`: write the card of a model."""

import dataclasses
from pathlib import Path
from typing import Any

from repvit_dense.artifact import card
from repvit_dense.artifact.manifest import is_artifact
from repvit_dense.commands.names import check_names
from repvit_dense.errors import InputError
from repvit_dense.files import is_file, is_folder, write_text
from repvit_dense.options import option
from repvit_dense.screen import say

MODEL = 'work dir, checkpoint, artifact, packaged model (nuclei) or hf://USER/NAME'
LICENSE = 'licence that you publish the model under (default: as recorded, else unknown)'


@dataclasses.dataclass
class Options:
    """Options of `card`."""

    model: str | Path = option(positional=True, metavar='MODEL', help=MODEL)
    _: dataclasses.KW_ONLY
    out: Path | None = option(None, type=Path, metavar='FILE', help='write the card there (default: print it)')
    license: str | None = option(None, metavar='SPDX', help=LICENSE)
    offline: bool = option(False, help='open no connection')


def run(options: Options) -> str:
    """Write the card of a model: Markdown with the header of the Hugging Face hub.

    Returns:
        the card.

    Raises:
        InputError: there is no model of this name, or it cannot be read; nothing was written.
    """
    place = str(options.model)
    place = Path(place).name if Path(place).is_absolute() else place  # no path of this machine in a card
    check_names(named := dataclasses.replace(options, out=None))
    text = card.card(subject(named.model, place, options.license))
    if options.out is None:
        print(text, end='')
        return text
    if is_folder(options.out):
        raise InputError(f'--out {options.out}: is a folder; name a file in it, such as {options.out / "README.md"}')
    try:
        write_text(options.out, text)
    except OSError as error:
        raise InputError(f'--out {options.out}: cannot be written ({error.strerror})') from error
    say(f'{options.out}: written')
    return text


def subject(model: str | Path, place: str | None = None, licence: str | None = None) -> card.Subject:
    """Return the facts about a work dir, a checkpoint or an artifact.

    Args:
        model: the path.
        place: path or address that the card tells users to load; None for `model`.
        licence: SPDX name that the publisher gives.

    Raises:
        InputError: there is no such model, or it cannot be read.
    """
    from repvit_dense.checkpoints.work_dir import find_checkpoint
    from repvit_dense.config import CHECKPOINT_SUFFIXES, trained_classes

    if is_artifact(model):
        return card.of_artifact(model, place, licence)
    checkpoint = find_checkpoint(str(model))
    if not is_file(checkpoint) or Path(checkpoint).suffix not in CHECKPOINT_SUFFIXES:
        raise InputError(f'{model}: no model there; name a work dir, a checkpoint (.pth, .safetensors) or an artifact')
    from repvit_dense.checkpoints.provenance import of_checkpoint
    from repvit_dense.checkpoints.reading import read

    content = read(checkpoint, 'meta')
    found: Any = content.get('meta')
    meta = found if isinstance(found, dict) else {}
    record = of_checkpoint(content)
    task, name, backbone = _from_config(meta, record)
    return card.Subject(
        name=name or Path(checkpoint).stem,
        place=place or str(model),
        task=task,
        classes=trained_classes(content),
        backbone=backbone,
        provenance=record,
        licence=licence,
    )


def _from_config(meta: dict, record: dict | None) -> tuple[str | None, str | None, str | None]:
    """Return the task, the name of the config and the backbone, None for each that is unknown."""
    from repvit_dense.config import from_text
    from repvit_dense.config.structure import backbone_name, task

    name, backbone = ((record or {}).get(key) for key in ('config', 'backbone'))
    name, backbone = (value if isinstance(value, str) else None for value in (name, backbone))
    text = meta.get('config_text', meta.get('cfg'))
    if not isinstance(text, str) or not text.strip():
        return None, name, backbone
    try:
        cfg = from_text(text)
        return task(cfg), name, backbone or backbone_name(cfg.get('model') or {})
    except (InputError, AttributeError, KeyError, TypeError, ValueError):  # of another program
        return None, name, backbone
