"""Read a checkpoint from a path, a URL or a catalogue name without running any code from it."""

import argparse
import functools
import os
import pickle
import re
import sys
import zipfile
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.logging import HistoryBuffer, print_log
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

# Import the module, not its names: if mmengine imports the backbones first, this line runs before they are defined.
from repvit_dense.backbones import catalogue
from repvit_dense.errors import InputError


class CheckpointError(InputError):
    """An error about weights that cannot be used; its message names the file, the reason and a remedy."""


def read(source: str | os.PathLike, map_location='cpu') -> dict:
    """Read a checkpoint without executing code from it.

    Args:
        source: a path (`.pth`, `.pt`, `.safetensors`), a URL (http, https, file, or a scheme of mmengine such as
            `torchvision://`), or a name in the catalogue. Downloads are cached in torch.hub's checkpoint directory by
            file name.
        map_location: device of the tensors, as in `torch.load`.

    Returns:
        the saved dictionary. One entry is renamed, `meta['config']` to `meta['config_text']`, because mmengine would
        execute it as Python when it resumes.

    Raises:
        CheckpointError: the file is missing, truncated, not a checkpoint or unsafe, or the download failed.
    """
    path = _locate(os.fspath(source))
    if _format(path) == 'safetensors':
        content = load_file(path)
        if isinstance(map_location, str | torch.device):
            content = {key: value.to(map_location) for key, value in content.items()}
    else:
        content = _read_torch(path, map_location)
    if not isinstance(content, dict):
        raise CheckpointError(f'{path}: contains a {type(content).__name__}, not a checkpoint with named weights')
    meta = content.get('meta')
    if isinstance(meta, dict) and 'config' in meta:
        meta['config_text'] = meta.pop('config')
    return content


def _locate(source: str) -> Path:
    """Return the local file of a source; download it first if necessary."""
    if '://' not in source:
        path = Path(source).expanduser()
        if path.exists():
            return path
        try:
            return _fetch(*catalogue.resolve(source))
        except CheckpointError:
            raise
        except ValueError as error:
            raise CheckpointError(f'{source}: no such file, and {error}') from None
    url = _resolve_scheme(source)
    if url.startswith(('http://', 'https://')):
        return _fetch(url, catalogue.cache_name(url))
    path = Path(url2pathname(urlsplit(url).path))
    if not path.exists():
        raise CheckpointError(f'{source}: no such file ({path})')
    return path


def _resolve_scheme(source: str) -> str:
    """Return the http, https or file URL that a source with one of mmengine's schemes stands for."""
    scheme, _, name = source.partition('://')
    if scheme in ('http', 'https', 'file'):
        return source
    from mmengine.runner import checkpoint as hub

    tables = dict.fromkeys(('torchvision', 'modelzoo'), hub.get_torchvision_models)
    tables |= dict.fromkeys(('open-mmlab', 'openmmlab'), hub.get_external_models)
    if scheme not in tables:
        raise CheckpointError(f"{source}: '{scheme}://' cannot be read safely; download the file and give its path")
    addresses = tables[scheme]()
    if 'mmlab' in scheme:
        name = hub.get_deprecated_model_names().get(name, name)
    if name not in addresses:
        raise CheckpointError(f"{source}: unknown model '{name}'; nearest: {catalogue.nearest(name, addresses)}")
    address = addresses[name]
    return address if '://' in address else Path(hub._get_mmengine_home(), address).as_uri()


def _fetch(url: str, name: str) -> Path:
    """Return the cached file of this name; the first process downloads it while the others wait."""
    path = Path(torch.hub.get_dir(), 'checkpoints', name)
    rank, world_size = get_dist_info()
    try:
        if rank == 0 and not path.exists():
            _download(url, path)
    finally:  # also after a failure, or the other ranks would wait for ever
        if world_size > 1:
            torch.distributed.barrier()
    if not path.exists():  # this rank runs on another machine, with its own disk
        _download(url, path)
    return path


def _download(url: str, path: Path) -> None:
    """Download to `path`; a file that is visibly no checkpoint is deleted again."""
    print_log(f'Downloading {url} to {path}', logger='current')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=sys.stderr.isatty())  # renames when complete
    except (OSError, HTTPException, ValueError, RuntimeError) as error:
        raise CheckpointError(f'{url}: cannot be downloaded ({error}). Download it by hand to {path}') from error
    try:
        _format(path)
    except CheckpointError:
        path.unlink(missing_ok=True)  # or the next attempt would take it from the cache
        raise


def _format(path: Path) -> str:
    """Return 'safetensors' or 'torch' by the content of a file.

    Raises:
        CheckpointError: the file is visibly neither, or truncated.
    """
    try:
        with path.open('rb') as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f'{path}: cannot be read ({error.strerror}); name a checkpoint file') from error
    broken = f'{path}: truncated or corrupt ({path.stat().st_size} bytes); delete it and get it again'
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < 10**8:
        try:
            with safe_open(path, 'pt'):  # checks header and size
                return 'safetensors'
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f'{broken} ({error})') from error
    if head.lstrip()[:1] == b'<':
        raise CheckpointError(f'{path}: a web page (HTML), not weights; delete it and download the file itself')
    pickled = head[:1] == b'\x80' and path.suffix != '.safetensors'
    if pickled or (head[:2] == b'PK' and zipfile.is_zipfile(path)):
        return 'torch'
    raise CheckpointError(broken if len(head) < 16 or head[:2] == b'PK' else f'{broken}, or it never was a checkpoint')


def _read_torch(path: Path, map_location):
    """Unpickle with `weights_only`; besides tensors only the classes in `_allowed` can be created."""
    try:
        with _safe_globals(_allowed()):
            return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # on a damaged file the unpickler may raise anything
        forbidden = re.search(r'GLOBAL (\S+)', str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if forbidden:
            raise CheckpointError(
                f'{path}: not trusted, and nothing in it was executed: it refers to {forbidden[1]}, which weights do '
                'not need but a malicious file would. Get it from a source you trust, preferably as .safetensors'
            ) from None
        cause = str(error).rpartition('WeightsUnpickler error: ')[2].strip().partition('\n')[0]
        raise CheckpointError(
            f'{path}: truncated, corrupt or not written by torch.save ({type(error).__name__}: {cause}); get it again'
        ) from error


@contextmanager
def _safe_globals(allowed: list):
    """Do the same as `torch.serialization.safe_globals`, which torch 2.4 lacks."""
    before = list(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals(allowed)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


class _Number:
    """A stand-in for `numpy.dtype` that allows only plain numbers; a crafted real dtype can access foreign memory."""

    __module__, __qualname__ = 'numpy', 'dtype'  # a file refers to it by this name

    def __init__(self, code: str, *_):
        if not re.fullmatch(r'[bifu]\d{1,2}', str(code)):
            raise pickle.UnpicklingError(f'GLOBAL numpy.dtype({code!r})')
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        if state[1] == '>':
            self.dtype = self.dtype.newbyteorder('>')


class _Array(np.ndarray):
    """A stand-in for `numpy.ndarray` that allows only plain numbers; copying or saving it yields a plain array."""

    __module__, __qualname__ = 'numpy', 'ndarray'

    def __new__(cls, *_):
        return super().__new__(cls, 0, np.int8)

    def __setstate__(self, state):
        _, shape, number, fortran, data = state
        super().__setstate__((1, shape, number.dtype, fortran, data))

    def __reduce__(self):
        return self.view(np.ndarray).__reduce__()


def _statistic(owner, name):
    """Stand in for `getattr`, by which the statistics of a HistoryBuffer are pickled; allow nothing else."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'GLOBAL getattr({owner!r},{name!r})')
    return getattr(owner, name)


@functools.cache
def _allowed() -> list:
    """Return the classes and functions that an mmengine checkpoint, or one with saved `args`, needs beyond tensors."""

    def stand_in(path, function):
        def call(*args):
            return function(*args)

        call.__module__, _, call.__qualname__ = path.rpartition('.')
        call.__name__ = call.__qualname__
        return call

    functions = [stand_in('builtins.getattr', _statistic)]
    functions.append(stand_in('_codecs.encode', lambda text, _: text.encode('latin1')))  # bytes; torch 2.4 lacks it
    for core in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # numpy 1 and 2
        functions.append(stand_in(f'{core}._reconstruct', _Array))
        functions.append(stand_in(f'{core}.scalar', lambda number, data: np.frombuffer(data, number.dtype, 1)[0]))
    for stand in (_Number, _Array):
        stand.__name__ = stand.__qualname__  # torch 2.4 looks it up by this name
    return [HistoryBuffer, argparse.Namespace, _Number, _Array, *functions]
