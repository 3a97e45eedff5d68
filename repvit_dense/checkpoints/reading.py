"""Read a checkpoint from a path, a URL or a catalogue name without running any code from it.

Functions import mmengine and the backbones: the first import of mmengine registers the parts of this package, some of
which need this module.
"""

import functools
import io
import logging
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open

from repvit_dense.checkpoints import unpickling
from repvit_dense.checkpoints.archive import Archive, Damaged
from repvit_dense.checkpoints.constructors import Untrusted
from repvit_dense.checkpoints.fetching import CheckpointError, file_format, locate, open_checkpoint
from repvit_dense.checkpoints.provenance import meta_in
from repvit_dense.errors import InputError, printable, shorten

SAFETENSORS_DTYPES = ('F64', 'F32', 'F16', 'BF16', 'I64', 'I32', 'I16', 'I8', 'U8', 'BOOL')
MOST_CLASSES, LONGEST_NAME = 100_000, 1000
LEGACY_MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of the format before PyTorch 1.6


def read(source: str | os.PathLike, map_location='cpu') -> dict:
    """Read a checkpoint without executing code from it.

    Args:
        source: a path (`.pth`, `.pt`, `.safetensors`), a URL (http, https, file, or a scheme of mmengine such as
            `torchvision://`), or a name in the catalogue. Downloads are cached in torch.hub's checkpoint directory by
            file name.
        map_location: device of the tensors. On 'meta' the file is checked, but the tensors have no values. Anything
            that is not the name of a device stands for the CPU.

    Returns:
        the saved dictionary. One entry is renamed, `meta['config']` to `meta['config_text']`, because mmengine would
        execute it as Python when it resumes.

    Raises:
        CheckpointError: the file is missing, truncated, not a checkpoint or unsafe, or the download failed.
    """
    try:
        path = locate(os.fspath(source))
        layout = file_format(path)
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:  # a malformed URL, a name that is too long for the cache
        raise CheckpointError(f'{source!s}: cannot be read ({error})') from error
    device = torch.device(map_location if isinstance(map_location, str | torch.device) else 'cpu')
    content = _read_safetensors(path, device) if layout == 'safetensors' else _read_torch(path, layout, device)
    if not isinstance(content, dict):
        raise CheckpointError(f'{path}: contains a {type(content).__name__}, not a checkpoint with named weights')
    meta = content.get('meta')
    if meta is not None:
        _check_meta(path, meta)
        if 'config' in meta:
            meta['config_text'] = meta.pop('config')
    return content


def _check_meta(path: Path, meta: Any) -> None:
    """Refuse names of classes that are none; leave out a palette that is none, which matters for pictures only."""
    dataset = meta.get('dataset_meta') if isinstance(meta, dict) else 0
    if not isinstance(dataset, dict | None):
        raise CheckpointError(f'{path}: its meta data are not those of a training; get it again')
    for part, names, colours in ((dataset or {}, 'classes', 'palette'), (meta, 'CLASSES', 'PALETTE')):
        classes, palette = part.get(names), part.get(colours)
        if classes is not None and not (
            isinstance(classes, list | tuple)
            and len(classes) <= MOST_CLASSES
            and all(isinstance(name, str) and 0 < len(name) <= LONGEST_NAME for name in classes)
        ):
            raise CheckpointError(
                f'{path}: its meta data hold no list of class names ({names} is a {type(classes).__name__}); '
                f'get it again, or remove meta[{names!r}]'
            )
        if not (isinstance(palette, str | None) or (isinstance(palette, list | tuple) and all(map(_is_rgb, palette)))):
            _log(f'{path}: its palette is no list of RGB colours, and is not used')
            del part[colours]


def _is_rgb(colour: Any) -> bool:
    if not isinstance(colour, list | tuple) or len(colour) != 3:
        return False
    return all(isinstance(level, int) and 0 <= level <= 255 for level in colour)


def _log(text: str, level: int = logging.INFO) -> None:
    from mmengine.logging import print_log

    print_log(printable(text), logger='current', level=level)


def _few(names: list[str]) -> str:
    """Return the first three names, and how many more there are."""
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')


def _read_safetensors(path: Path, device: torch.device) -> dict:
    """Read a file of safetensors, whose library checks that the tensors fill the file without gaps."""
    with safe_open(path, 'pt') as file:
        kinds = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
        unusual = [f'{key} ({kind})' for key, kind in kinds.items() if kind not in SAFETENSORS_DTYPES]
        if unusual:
            raise CheckpointError(f'{path}: types of tensors that are not loaded: {_few(unusual)}; save them as F32')
        tensors = {key: file.get_tensor(key).to(device) for key in kinds}
        try:
            meta = meta_in(file.metadata(), path)
        except InputError as error:
            raise CheckpointError(str(error)) from None
    return tensors if meta is None else {'meta': meta, 'state_dict': tensors}


def _read_torch(path: Path, layout: str, device: torch.device) -> Any:
    """Read a file of torch.save; see `unpickling` for what may be in it."""
    with open_checkpoint(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            return (_read_zip if layout == 'zip' else _read_legacy)(path, file, size, device)
        except Untrusted as error:
            raise CheckpointError(
                f'{path}: not trusted, and nothing in it was executed: it refers to {error}, which weights do '
                'not need but a malicious file would. Get it from a source you trust, preferably as .safetensors'
            ) from None
        except unpickling.Oversized:
            raise CheckpointError(
                f'{path}: not trusted: this file of {size:,} bytes asks for far more memory than weights of its size '
                'need. Get it from a source you trust, preferably as .safetensors'
            ) from None
        except unpickling.Protocol as error:
            raise CheckpointError(
                f'{path}: saved with {error}; protocol 2 is read, which torch.save writes unless told otherwise. '
                'Save it again without pickle_protocol'
            ) from None
        except Exception as error:  # on a damaged file anything may be raised
            cause = shorten(' '.join(str(error).split()) or 'the data ends early')
            raise CheckpointError(
                f'{path}: truncated, corrupt or not written by torch.save ({type(error).__name__}: {cause}); '
                'get it again'
            ) from error


def _read_zip(path: Path, file: BinaryIO, size: int, device: torch.device) -> Any:
    archive = Archive(file)
    if not archive.has_checksums:
        _log(f'{path}: has no checksums, damage to it cannot be noticed', logging.WARNING)
    if 'byteorder' in archive and archive.read('byteorder') != b'little':
        raise Damaged('it was written on a big-endian machine')

    @functools.cache
    def storage(key: str) -> torch.Tensor:
        count = archive.size(f'data/{key}')
        if device.type == 'meta':
            return torch.empty(count, dtype=torch.uint8, device=device)
        return _from_bytes(archive.read(f'data/{key}')).to(device)

    def load(dtype: torch.dtype, key: str, _: str, count: int) -> torch.Tensor:
        values = storage(key)
        if count * dtype.itemsize != len(values):
            raise Damaged(f'the storage {key} has {len(values)} bytes, not {count} elements of {dtype}')
        return values.view(dtype)

    content = unpickling.Unpickler(load, size).load(io.BytesIO(archive.read('data.pkl')))
    archive.check_rest()
    return content


def _from_bytes(content: bytearray) -> torch.Tensor:
    return torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def _read_legacy(_: Path, file: BinaryIO, size: int, device: torch.device) -> Any:
    """Read the format before PyTorch 1.6: five pickles, then the storages one after the other; on the CPU."""
    storages: dict[str, tuple[int, torch.Tensor]] = {}  # element size and bytes

    def load(dtype: torch.dtype, key: str, _: str, count: int) -> torch.Tensor:
        length = count * dtype.itemsize
        if key not in storages:
            if length + sum(len(values) for _, values in storages.values()) > size:
                raise Damaged('its storages are larger than the file')
            storages[key] = dtype.itemsize, torch.empty(length, dtype=torch.uint8)
        if length != len(storages[key][1]):
            raise Damaged(f'the storage {key} has two sizes')
        return storages[key][1].view(dtype)

    unpickler = unpickling.Unpickler(load, size)
    if unpickler.load(file) != LEGACY_MAGIC or unpickler.load(file) != LEGACY_VERSION:
        raise Damaged('an unknown version')
    if unpickler.load(file).get('little_endian') is not True:
        raise Damaged('it was written on a big-endian machine')
    content, keys = unpickler.load(file), unpickler.load(file)
    if sorted(keys) != sorted(storages):
        raise Damaged('its storages are incomplete')
    for itemsize, values in (storages[key] for key in keys):
        count = int.from_bytes(file.read(8), 'little')
        if count * itemsize != len(values) or file.readinto(values.numpy()) < len(values):  # type: ignore[attr-defined]
            raise Damaged('the file ends early')
    return content
