"""Read and write `manifest.json`, the description of an artifact. Reading executes nothing and stays in the folder."""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from repvit_dense import __version__
from repvit_dense.artifact.rules import (
    OUTPUTS,
    Rule,
    are_class_names,
    is_digest,
    is_key,
    is_relative_name,
    postprocess_rules,
    preprocess_rules,
    rules,
)
from repvit_dense.artifact.targets import TARGETS
from repvit_dense.data.reading import read_json
from repvit_dense.errors import InputError, shorten
from repvit_dense.files import is_file, is_folder, open_regular, walk, write_text

NAME = 'manifest.json'
FORMAT_VERSION = 2
READ_VERSIONS = (1, 2)  # version 1 has no `files`
LARGEST = 2**24  # bytes of a manifest
EXPORT_AGAIN = 'export the model again (repvit-dense export)'
COPY = f'copy the whole folder of the artifact anew, or {EXPORT_AGAIN}'

MODEL_SUFFIXES = {
    *(Path(target.model).suffix for target in TARGETS.values()),
    *('.bin', '.data', '.weights', '.mlmodel', '.ort'),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of an artifact.

    Attributes:
        task: 'detection', 'instance', 'panoptic' or 'semantic'.
        target: format of the model file, a key of `repvit_dense.artifact.targets.TARGETS`.
        precision: 'fp32', 'fp16' or 'int8'.
        model: name of the model file or folder beside the manifest.
        classes: class names, by label.
        palette: an RGB colour per class, 0 to 255, or None.
        preprocess: see `repvit_dense.artifact.preprocess.from_config`.
        inputs: shape of every input, by name; a number is fixed, a name is open.
        outputs: names, in the order of the model's outputs.
        mask_kind: 'roi' if a mask covers its box, 'image' if it covers the padded image on a coarser grid, else None.
        postprocess: thresholds and switches, see `repvit_dense.artifact.postprocess`.
        config, backbone, tap, checkpoint_sha256, versions: origin of the model.
        files: SHA-256 of every file of the model by its name in the folder; None in version 1. `write` computes it.
        certificate: measurements of the export; None if there were none.
        provenance: how the model was made, see `repvit_dense.checkpoints.provenance`; None if it was not recorded.
        producer: name and version of the writer.
        format_version: version of this description.
    """

    task: str
    target: str
    precision: str
    model: str
    classes: list[str]
    palette: list[list[int]] | None
    preprocess: dict
    inputs: dict[str, list[int | str]]
    outputs: list[str]
    mask_kind: str | None
    postprocess: dict
    config: str | None
    backbone: str | None
    tap: str | None
    checkpoint_sha256: str | None
    versions: dict[str, str]
    files: dict[str, str] | None = None
    certificate: dict | None = None
    provenance: dict | None = None
    producer: str = f'repvit_dense {__version__}'
    format_version: int = FORMAT_VERSION

    def write(self, folder: str | Path) -> Path:
        """Write `manifest.json` into the folder of the model, completely or not at all, and return its path.

        Raises:
            InputError: `read` would refuse the value of a field, or the folder lacks the model.
        """
        path = Path(folder, NAME)
        files = {name: digest(file) for name, file in sorted(_model_files(Path(folder), self.model).items())}
        text = json.dumps(dataclasses.asdict(self) | {'files': files, 'format_version': FORMAT_VERSION}, indent=1)
        _check(path, json.loads(text))
        write_text(path, text + '\n')
        return path


def is_artifact(path: str | Path) -> bool:
    """Return whether a path is a folder with a `manifest.json`."""
    return os.path.lexists(Path(path, NAME))


def read(folder: str | Path) -> Manifest:
    """Read and check the manifest of an artifact; see `check_files` for its model files.

    Raises:
        InputError: the folder or the manifest is missing, the manifest has another version or a field that is missing,
            unknown or of the wrong type, or the model file is missing or outside the folder.
    """
    folder = Path(folder)
    path = folder / NAME
    if not is_artifact(folder):
        problem = f'no {NAME} in this folder' if is_folder(folder) else 'no such folder'
        raise InputError(f'{folder}: {problem}; name the folder of an artifact, as repvit-dense export writes it')
    try:
        content = read_json(path, LARGEST)
    except InputError as error:
        raise InputError(f'{error}; {EXPORT_AGAIN}') from error
    _check(path, content)
    model = folder / content['model']
    is_package = TARGETS[content['target']].model.endswith('.mlpackage')
    if not (is_folder if is_package else is_file)(model):
        kind = 'folder' if is_package else 'file'
        problem = f'is not a {"folder" if is_package else "regular file"}' if os.path.lexists(model) else 'is missing'
        raise InputError(f'{model}: the model {kind} {problem}; {COPY}')
    _model_files(folder, content['model'])
    return Manifest(**{'files': None} | content)


def check_class_names(names: list[str]) -> None:
    """Refuse names of classes that no artifact may have, before the export takes its time.

    Raises:
        InputError: a name occurs twice, is empty or cannot be printed.
    """
    for name, count in Counter(names).items():
        if not are_class_names([name]):
            raise InputError(f'an artifact cannot have a class with the name {shorten(repr(name))}; rename it')
        if count > 1:
            raise InputError(f'{count} classes have the name {name}; results would not tell them apart: rename them')


def check_files(folder: str | Path, manifest: Manifest) -> None:
    """Compare the files of an artifact with the digests in its manifest; one of version 1 has none.

    Raises:
        InputError: a file differs, is missing, is not listed, or links out of the folder.
    """
    folder = Path(folder)
    present = _model_files(folder, manifest.model)
    if manifest.files is None:
        return
    for name in sorted(manifest.files.keys() | present.keys()):
        if name not in present:
            raise InputError(f'{folder / name}: this file of the artifact is missing; {COPY}')
        if name not in manifest.files:
            raise InputError(f'{folder / name}: the artifact was exported without this file; remove it, or {COPY}')
        if digest(present[name]) != manifest.files[name]:
            raise InputError(f'{folder / name}: changed since the export (its SHA-256 differs); {COPY}')


def _model_files(folder: Path, model: str) -> dict[str, Path]:
    """Return the files that a runtime may read, by name: those that look like a model's, and all of a model folder.

    Raises:
        InputError: one of them links out of the folder, or is no regular file.
    """
    inside, files = os.path.realpath(folder), {}
    for entry in sorted(folder.iterdir()):
        if entry.name != model and entry.suffix not in MODEL_SUFFIXES:
            continue
        for path in walk(entry) if is_folder(entry) else [entry]:
            if not Path(os.path.realpath(path)).is_relative_to(inside):
                raise InputError(f'{path}: links out of the folder {folder}; put the file itself there')
            if not is_file(path):
                raise InputError(f'{path}: cannot be read (not a regular file); {COPY}')
            files[path.relative_to(folder).as_posix()] = path
    return files


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    value = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(2**20):
            value.update(chunk)
    return value.hexdigest()


# --- checks -----------------------------------------------------------------------------------------------------------


def _check(path: Path, content: Any) -> None:
    """Refuse JSON content that is not a valid manifest."""
    if not isinstance(content, dict):
        raise InputError(f'{path}: not a manifest (JSON holds no object); {EXPORT_AGAIN}')
    version = content.get('format_version')
    if type(version) is not int or version not in READ_VERSIONS:
        raise InputError(
            f'{path}: format_version is {shorten(repr(version), 40)}, this release of repvit_dense reads '
            f'{" and ".join(map(str, READ_VERSIONS))}; {EXPORT_AGAIN} or install the release that wrote it'
        )
    names = {field.name for field in dataclasses.fields(Manifest)} - ({'files'} if version == 1 else set())
    _require_fields(path, '', content, names - {'provenance'}, names)
    task = content['task']
    _require(path, 'task', task, Rule(lambda value: is_key(value, OUTPUTS), f'one of {", ".join(OUTPUTS)}'))
    for name, rule in rules(content).items():
        _require(path, name, content.get(name), rule)
    preprocess, postprocess = content['preprocess'], content['postprocess']
    preprocessing = preprocess_rules(preprocess)
    required, optional = postprocess_rules(content)
    for part, fields, all_rules, needed in (
        ('preprocess', preprocess, preprocessing, preprocessing),
        ('postprocess', postprocess, required | optional, required),
    ):
        _require_fields(path, f'{part}: ', fields, needed, all_rules)
        for name, value in fields.items():
            _require(path, f'{part}.{name}', value, all_rules[name])
    sides = [side for side in content['inputs']['images'][2:] if isinstance(side, int)]
    divisor = preprocess['divisor']
    multiples = Rule(lambda sides: not any(side % divisor for side in sides), f'multiples of the divisor, {divisor}')
    _require(path, 'inputs.images: the size', sides, multiples)
    if version > 1:
        files = content['files']
        fits = isinstance(files, dict) and all(map(is_relative_name, files)) and all(map(is_digest, files.values()))
        _require(path, 'files', files, Rule(lambda _: fits and bool(files), 'a SHA-256 for each file'))


def _require_fields(path: Path, part: str, content: dict, needed: Iterable[str], known: Iterable[str]) -> None:
    for problem, fields in (('missing', {*needed} - {*content}), ('unknown', {*content} - {*known})):
        if fields:
            listed = ', '.join(shorten(name, 40) for name in sorted(fields)[:10])
            raise InputError(f'{path}: {part}{problem}: {listed}; {EXPORT_AGAIN}')


def _require(path: Path, name: str, value: Any, rule: Rule) -> None:
    if not rule.fits(value):
        raise InputError(f'{path}: {name} is {_quote(value)}, expected {rule.expected}; {EXPORT_AGAIN}')


def _quote(value: Any) -> str:
    """Return a value as Python writes it, cut to 80 characters."""
    try:
        return shorten(repr(value), 80)
    except (RecursionError, ValueError):  # nested too deeply, or a number with too many digits
        return f'a {type(value).__name__}'
