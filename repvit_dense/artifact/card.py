"""Write the card of a model: Markdown with the YAML header of the Hugging Face hub.

Everything in it comes from the model's file; whatever the file does not hold is said to be unknown or not recorded.
Text from the file is escaped, so that it can neither add keys to the header nor change the page.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repvit_dense.artifact.manifest import Manifest, read
from repvit_dense.errors import printable, shorten

MARK = '<!-- written by repvit-dense card -->'
UNKNOWN, NOT_RECORDED = 'unknown', 'not recorded'
PIPELINES = {
    'detection': 'object-detection',
    **dict.fromkeys(('instance', 'panoptic', 'semantic'), 'image-segmentation'),
}
KINDS = {
    'detection': 'detects objects as boxes',
    'instance': 'detects objects as boxes and masks',
    'panoptic': 'divides an image into objects and surfaces (panoptic segmentation)',
    'semantic': 'gives every pixel a class (semantic segmentation)',
}
TOLD = ('version', 'data', 'scores', 'initial_weights', 'licence', 'parameters')  # of the provenance, in other sections
MOST_CLASSES, MOST_ROWS, LONGEST_CELL = 200, 200, 600
# Licences that the hub knows by their SPDX name in lower case.
LICENCES = (
    *('apache-2.0', 'mit', 'bsd-2-clause', 'bsd-3-clause', 'cc0-1.0', 'cc-by-4.0', 'cc-by-sa-4.0', 'cc-by-nc-4.0'),
    *('cc-by-nc-sa-4.0', 'gpl-3.0', 'lgpl-3.0', 'agpl-3.0', 'mpl-2.0', 'unlicense', 'openrail', UNKNOWN),
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """The facts that a card tells.

    Attributes:
        name: name of the model: its config, or else its file.
        place: path or address that `repvit_dense.load` takes.
        task: 'detection', 'instance', 'panoptic' or 'semantic'; None if unknown.
        classes: class names by label; None if unknown.
        backbone: its name; None if unknown.
        provenance: see `repvit_dense.checkpoints.provenance`; None if it was not recorded.
        manifest: of an artifact; None for a checkpoint.
        licence: SPDX name that the publisher gives; None for that in the provenance.
    """

    name: str
    place: str
    task: str | None
    classes: list[str] | None
    backbone: str | None
    provenance: dict[str, Any] | None
    manifest: Manifest | None = None
    licence: str | None = None

    @property
    def licence_name(self) -> str:
        """The SPDX name of the licence, or 'unknown'."""
        return str(self.licence or _get(self.provenance, 'licence') or UNKNOWN)


def of_artifact(folder: str | Path, place: str | None = None, licence: str | None = None) -> Subject:
    """Return the facts about an artifact.

    Raises:
        InputError: the folder holds no artifact, see `manifest.read`.
    """
    content = read(folder)
    return Subject(
        name=content.config or Path(folder).absolute().name,
        place=place or Path(folder).as_posix(),
        task=content.task,
        classes=content.classes,
        backbone=content.backbone,
        provenance=content.provenance,
        manifest=content,
        licence=licence,
    )


def card(subject: Subject) -> str:
    """Return the card of a model."""
    parts = [_title, _data, _scores, _use, _limits, _licences, _table]
    return (
        '\n'.join([*_header(subject), MARK, '', *(line for part in parts for line in (*part(subject), ''))]).rstrip()
        + '\n'
    )


# --- escaping ---


def _get(value: Any, *keys: str) -> Any:
    """Return a nested entry, None if there is no such entry."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _yaml(value: Any) -> str:
    """Return a value for the header; JSON is also YAML."""
    value = printable(' '.join(value.split())) if isinstance(value, str) else value
    return json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str:
    """Return one line of Markdown that shows a value as it is."""
    if value is None:
        return NOT_RECORDED
    if isinstance(value, list | tuple):
        value = ', '.join(map(str, value)) or 'none'
    words = ' '.join(printable(shorten(value, LONGEST_CELL)).split())
    return re.sub(r'([\\`*_\[\]<>|~#$&])', r'\\\1', words).replace('://', ':\\//')


def _code(text: str, language: str) -> list[str]:
    """Return a block of code; a longer fence encloses text that contains one."""
    longest = max(map(len, re.findall('`+', text)), default=0)
    fence = '`' * max(3, longest + 1)
    return [f'{fence}{language}', *printable(text).splitlines(), fence]


def _rows(head: tuple[str, ...], rows: list[tuple]) -> list[str]:
    lines = ['| ' + ' | '.join(map(_text, row)) + ' |' for row in rows[:MOST_ROWS]]
    return [f'| {" | ".join(head)} |', f'|{"---|" * len(head)}', *lines] if rows else []


# --- parts ---


def _header(subject: Subject) -> list[str]:
    licence, data = subject.licence_name, _get(subject.provenance, 'data', 'name')
    known = licence.lower() in LICENCES
    lines = [f'license: {_yaml(licence.lower() if known else "other")}']
    lines += [] if known else [f'license_name: {_yaml(licence)}']
    lines += ['library_name: repvit_dense']
    lines += [f'pipeline_tag: {PIPELINES[subject.task]}'] if subject.task in PIPELINES else []
    formats = [subject.manifest.target, subject.manifest.precision] if subject.manifest else []
    tags = ['repvit_dense', subject.task, subject.backbone, *formats]
    lines += ['tags:', *(f'- {_yaml(tag)}' for tag in dict.fromkeys(tags) if tag)]
    if isinstance(data, str) and re.fullmatch(r'[\w.-]{1,90}', data):
        lines += ['datasets:', f'- {_yaml(data)}']
    entry, _ = measured(subject.provenance)
    values = _get(entry, 'values') or {}
    if values and subject.task in PIPELINES and isinstance(data, str):
        lines += ['metrics:', *(f'- {_yaml(name)}' for name in values)]
        lines += ['model-index:', f'- name: {_yaml(subject.name)}', '  results:', '  - task:']
        lines += [f'      type: {PIPELINES[subject.task]}', '    dataset:', f'      name: {_yaml(data)}']
        lines += [f'      type: {_yaml(data)}', f'      split: {_yaml(_get(subject.provenance, "scores", "split"))}']
        lines += ['    metrics:']
        for name, value in values.items():
            lines += [f'    - type: {_yaml(name)}', f'      value: {_yaml(value)}']
    return ['---', *lines, '---', '']


def measured(provenance: dict[str, Any] | None) -> tuple[dict[str, Any] | None, bool]:
    """Return the scores of just these weights, and whether a validation chose them as the best; None: not measured."""
    iterations, scores = _get(provenance, 'iterations'), _get(provenance, 'scores')
    for name in ('best', 'last'):
        entry = _get(scores, name)
        if _get(entry, 'iteration') == iterations is not None and isinstance(_get(entry, 'values'), dict):
            return entry, name == 'best'
    return None, False


def _title(subject: Subject) -> Iterator[str]:
    yield f'# {_text(subject.name)}'
    yield ''
    parameters = _get(subject.provenance, 'parameters')
    size = f', {parameters:,} parameters when it was trained' if isinstance(parameters, int) else ''
    kind = KINDS.get(str(subject.task), 'is of an unknown kind')
    form = 'A checkpoint'
    if subject.manifest:
        form = f'An artifact ({subject.manifest.target}, {subject.manifest.precision})'
    yield f'{form} of a model that {kind}. Backbone: {_text(subject.backbone or UNKNOWN)}{size}.'
    yield ''
    names = subject.classes
    if names is None:
        yield 'Its classes are unknown.'
    else:
        more = f' and {len(names) - MOST_CLASSES} more' if len(names) > MOST_CLASSES else ''
        listed = ', '.join(map(_text, names[:MOST_CLASSES]))
        yield f'{"Class" if len(names) == 1 else f"{len(names)} classes"}: {listed}{more}.'


def _data(subject: Subject) -> Iterator[str]:
    yield '## Trained on'
    yield ''
    data = _get(subject.provenance, 'data')
    if not data:
        yield f'{NOT_RECORDED.capitalize()}.'
        return
    address = _get(data, 'url')
    yield f'{_text(_get(data, "name") or UNKNOWN)}{f", from {_text(address)}" if address else ""}.'
    yield ''
    splits = [name for name, value in data.items() if isinstance(value, dict)]
    yield from _rows(
        ('split', 'images', 'SHA-256 of annotations, names and sizes'),
        [(name, _get(data, name, 'images'), _get(data, name, 'sha256')) for name in splits],
    )


def _scores(subject: Subject) -> Iterator[str]:
    yield '## Scores'
    yield ''
    entry, is_best = measured(subject.provenance)
    scores = _get(subject.provenance, 'scores')
    if not entry:
        last = _get(scores, 'last', 'iteration')
        near = '' if last is None else f' The last validation of this training was after iteration {_text(last)}.'
        yield f'No scores of these weights are recorded.{near}'
        return
    split, chosen = _text(_get(scores, 'split')), _get(scores, 'chosen_by')
    choice = f' They are the best of all validations by {_text(chosen)}, so the score is optimistic.' if is_best else ''
    exported = ' Measured on the checkpoint, before the export.' if subject.manifest else ''
    yield f'Measured on the split {split} after iteration {_text(entry["iteration"])}.{choice}{exported}'
    yield ''
    yield from _rows(
        ('metric', 'value'), [(name, f'{value:.4g}') for name, value in entry['values'].items() if _is_number(value)]
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _use(subject: Subject) -> Iterator[str]:
    extra = f'[{subject.manifest.target}]' if subject.manifest and subject.manifest.target != 'torch' else '[openmmlab]'
    hub = ' huggingface_hub' if subject.place.startswith('hf://') else ''
    place = subject.place
    word = place if re.fullmatch(r'[\w./:@+-]+', place) else "'" + place.replace("'", "'\\''") + "'"
    yield '## Use'
    yield ''
    yield from _code(f'pip install "repvit_dense{extra}"{hub}\nrepvit-dense predict {word} photo.jpg', 'bash')
    yield ''
    yield from _code(
        f"import repvit_dense as rd\n\nmodel = rd.load({place!r})\nresult = model('photo.jpg')\nresult.save('out.jpg')",
        'python',
    )


def _limits(subject: Subject) -> Iterator[str]:
    yield '## Limits'
    yield ''
    yield '- It knows the classes above only. Anything else is overlooked or taken for one of them.'
    yield '- The scores hold for images like those of the data above. Other cameras and places were not measured.'
    yield '- It was not tested for uses that health, safety or rights depend on, and is no basis for a diagnosis.'
    yield '- Bias in the data was not examined.'


def _licences(subject: Subject) -> Iterator[str]:
    yield '## Licences'
    yield ''
    weights = _get(subject.provenance, 'initial_weights')
    yield from _rows(
        ('of', 'name', 'licence'),
        [
            ('this model', subject.name, subject.licence_name),
            ('the data', _get(subject.provenance, 'data', 'name'), _get(subject.provenance, 'data', 'licence')),
            (
                'the initial weights',
                _get(weights, 'name'),
                'none needed' if _get(weights, 'name') == 'random' else _get(weights, 'licence'),
            ),
        ],
    )


def _table(subject: Subject) -> Iterator[str]:
    yield '## Provenance'
    yield ''
    record = subject.provenance or {}
    rows = list(_flat({key: value for key, value in record.items() if key not in TOLD}))
    if subject.manifest:
        rows += [('checkpoint SHA-256', subject.manifest.checkpoint_sha256), ('exported by', subject.manifest.producer)]
        rows += [(f'exported with {name}', version) for name, version in subject.manifest.versions.items()]
    if not subject.provenance:
        yield f'How the model was trained is {NOT_RECORDED}.'
        yield ''
    yield from _rows(('', 'value'), rows)


def _flat(value: dict[str, Any], name: str = '') -> Iterator[tuple[str, Any]]:
    """Yield the name and value of all entries of nested dictionaries."""
    for key, item in value.items():
        full = f'{name} {key}'.strip().replace('_', ' ')
        if isinstance(item, dict):
            yield from _flat(item, full)
        else:
            yield full, item
