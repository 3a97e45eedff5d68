"""Find the local file of a checkpoint: a path, a URL or a name of the catalogue. Imports neither PyTorch nor OpenMMLab.

A download goes to torch.hub's checkpoint directory. Files that the Hugging Face hub or an installed package brought
along are used where they are. After `set_offline(True)` no connection is opened.
"""

import functools
import os
import queue
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPException
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, url2pathname, urlopen

from repvit_dense import catalogue, catalogue_timm
from repvit_dense.checkpoints.archive import is_archive
from repvit_dense.errors import InputError, nearest
from repvit_dense.files import open_regular, replacing
from repvit_dense.screen import say

MOST_HEADER = 2**24  # bytes of the header of a safetensors file; 100,000 tensors need half of it
TIMEOUT = 10.0  # seconds without an answer after which a download fails
CHUNK = 2**20  # bytes
PERMISSIVE = {
    *('Apache-2.0', 'BSD-3-Clause', 'CC-BY-4.0', 'MIT'),
    *('LicenseRef-apple-ascl', 'LicenseRef-apple-cvnets', 'LicenseRef-apple-fastvit', 'LicenseRef-apple-mobileone'),
}
NOT_COMMERCIAL = {
    *('CC-BY-NC-4.0', 'LicenseRef-apple-amlr', 'LicenseRef-fair-noncommercial-research-license'),
    'LicenseRef-seer-license',
}

_offline = False


class CheckpointError(InputError):
    """An error about weights that cannot be used; its message names the file, the reason and a remedy."""


def set_offline(offline: bool) -> None:
    """Forbid or allow downloads in this process; every command sets this."""
    global _offline  # noqa: PLW0603
    _offline = offline


def is_offline() -> bool:
    """Return whether downloads are forbidden."""
    return _offline


def check_source(source: str) -> None:
    """Refuse a source that is no existing path, no URL and no name of the catalogue. Nothing is downloaded.

    Raises:
        CheckpointError: names the most similar names of the catalogue.
    """
    if '://' not in source and not _exists(source):
        _resolve_name(source)


def locate(source: str) -> Path:
    """Return the local file of a source; download it first if necessary.

    Raises:
        CheckpointError: there is no such source, or it cannot be downloaded.
    """
    if '://' not in source:
        if _exists(source):
            return Path(os.path.expanduser(source))  # noqa: PTH111  Path.expanduser raises an error for an unknown user
        url, name = _resolve_name(source)
        _say_licence(source)
        return _fetch(url, name)
    url = _resolve_scheme(source)
    if url.startswith(('http://', 'https://')):
        if not catalogue.cache_name(url):
            raise CheckpointError(f'{source}: this URL names no file')
        return _fetch(url, catalogue.cache_name(url))
    path = Path(url2pathname(urlsplit(url).path))
    if not _exists(path):
        raise CheckpointError(f'{source}: no such file ({path})')
    return path


def is_here(source: str) -> bool:
    """Return whether `locate` needs no download."""
    before = _offline
    set_offline(True)
    try:
        return locate(source).exists()
    except CheckpointError:
        return False
    finally:
        set_offline(before)


def hub_folder() -> Path:
    """Return torch.hub's checkpoint directory."""
    if 'torch' in sys.modules:
        import torch

        return Path(torch.hub.get_dir(), 'checkpoints')
    home = os.environ.get('TORCH_HOME') or Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'torch')
    return Path(home).expanduser() / 'hub' / 'checkpoints'


def _exists(source: str | Path) -> bool:
    return os.path.exists(os.path.expanduser(source))  # noqa: PTH110, PTH111  Path raises errors for impossible names


def _resolve_name(source: str) -> tuple[str, str]:
    try:
        return catalogue.resolve(source)
    except ValueError as error:
        raise CheckpointError(f'{source}: no such file, and {error}') from None


@functools.cache
def _say_licence(name: str) -> None:
    """Say once that weights have a licence with conditions on their use."""
    licence = catalogue.licence_of(name)
    if licence in NOT_COMMERCIAL:
        say(f'{name}: the licence of these weights, {licence}, allows no commercial use')
    elif licence == catalogue_timm.UNKNOWN:
        say(f'{name}: no licence of these weights is stated; ask their authors before you publish or sell a model')
    elif licence not in PERMISSIVE:
        say(f'{name}: the licence of these weights is {licence}; read it before you publish or sell a model')


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
        raise CheckpointError(f"{source}: unknown model '{name}'{nearest(name, addresses)}")
    address = addresses[name]
    return address if '://' in address else Path(hub._get_mmengine_home(), address).as_uri()


# --- caches and downloads ---


def _fetch(url: str, name: str) -> Path:
    """Return the cached file of this name; the first process downloads it while the others wait."""
    path = hub_folder() / name
    local = next((file for file in (path, *_copies(url, name)) if file.exists()), None)
    rank, world_size = _rank()
    try:
        if rank == 0 and local is None:
            _download(url, path)
    finally:  # also after a failure, or the other ranks would wait for ever
        if world_size > 1:
            import torch

            torch.distributed.barrier()
    if local is None and not path.exists():  # this rank runs on another machine, with its own disk
        _download(url, path)
    return local or path


def _copies(url: str, name: str) -> Iterator[Path]:
    """Yield the places of a published file in the cache of the Hugging Face hub, and in installed packages."""
    if url.startswith(catalogue.HUB):
        owner, repository, _, _, *rest = PurePosixPath(urlsplit(url).path).parts[1:]
        home = os.environ.get('HF_HOME') or Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'huggingface')
        cache = Path(os.environ.get('HF_HUB_CACHE') or Path(home, 'hub')).expanduser()
        yield from cache.glob(f'models--{owner}--{repository}/snapshots/*/{"/".join(rest)}')
    yield from _installed().get(name, ())
    yield from _packaged(catalogue.package_of(url))


@functools.cache
def _installed() -> dict[str, list[Path]]:
    """Return the files of weights in installed packages by their name."""
    files: dict[str, list[Path]] = {}
    for distribution in metadata.distributions():
        for file in _weights_in(distribution):
            files.setdefault(file.name, []).append(file)
    return files


@functools.cache
def _packaged(package: str) -> list[Path]:
    """Return the file of weights in a package; none if the package is not installed or holds several."""
    try:
        files = _weights_in(metadata.distribution(package)) if package else []
    except metadata.PackageNotFoundError:
        return []
    if len(files) != 1 or not files[0].exists():
        return []
    say(f'weights from the installed package {package}: {files[0]}')
    return files


def _weights_in(distribution: metadata.Distribution) -> list[Path]:
    files = (file for file in distribution.files or () if file.suffix in ('.pth', '.pt', '.safetensors'))
    return [Path(str(distribution.locate_file(file))) for file in files]


def _rank() -> tuple[int, int]:
    """Return the rank of this process and the number of processes; no process group exists before mmengine is there."""
    if 'mmengine.dist' not in sys.modules:
        return 0, 1
    from mmengine.dist import get_dist_info

    return get_dist_info()


def _download(url: str, path: Path) -> None:
    """Download to `path`; a file that is visibly no checkpoint is deleted again."""
    package = catalogue.package_of(url)
    install = f', or run: pip install {package}' if package else ''
    if _offline:
        raise CheckpointError(
            f'{url}: is in no cache, and --offline allows no download. Leave --offline out, or put the file at {path}'
            f'{install}'
        )
    say(f'downloading {url} to {path}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            _receive(url, partial)
            file_format(partial, path)
    except CheckpointError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        reason = error if isinstance(error, HTTPError) else getattr(error, 'reason', error)
        raise CheckpointError(
            f'{url}: cannot be downloaded ({reason}). Download it by hand to {path}{install}'
        ) from error


def _receive(url: str, path: Path) -> None:
    from tqdm import tqdm

    with _connect(url) as answer, path.open('wb') as file:
        size = int(answer.headers.get('Content-Length') or 0)
        with tqdm(total=size or None, unit='B', unit_scale=True, leave=False, disable=None) as bar:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        if size and file.tell() != size:
            raise OSError(f'only {file.tell():,} of {size:,} bytes arrived')


def _connect(url: str) -> Any:
    """Open a URL. The time limit covers the look-up of the host, which may hang for minutes and has no limit itself."""
    outcome: queue.Queue = queue.Queue()

    def connect() -> None:
        try:
            outcome.put(urlopen(Request(url, headers={'User-Agent': 'repvit-dense'}), timeout=TIMEOUT))  # noqa: S310
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        answer = outcome.get(timeout=1.5 * TIMEOUT)
    except queue.Empty:
        raise TimeoutError(f'no answer within {1.5 * TIMEOUT:.0f} s') from None
    if isinstance(answer, Exception):
        raise answer
    return answer


# --- formats ---


def file_format(file: Path, name: Path | None = None) -> str:
    """Return 'safetensors', 'zip' or 'legacy' by the content of a file.

    Args:
        file: the file.
        name: its name in messages, if it is another one.

    Raises:
        CheckpointError: the file is visibly none of them, or truncated.
    """
    name = name or file
    with open_checkpoint(file) as stream:
        head, size = stream.read(512), os.fstat(stream.fileno()).st_size
        is_zip = head[:2] == b'PK' and is_archive(stream)
    broken = f'{name}: truncated or corrupt ({size} bytes); delete it and get it again'
    header = int.from_bytes(head[:8], 'little')
    if head[8:9] == b'{' and header < size:
        if header > MOST_HEADER:
            raise CheckpointError(f'{name}: its header has {header:,} bytes, weights have at most {MOST_HEADER:,}')
        from safetensors import safe_open

        try:
            with safe_open(file, 'numpy'):  # checks header and size
                return 'safetensors'
        except Exception as error:  # the library raises errors of many classes
            raise CheckpointError(f'{broken} ({error})') from error
    if head.lstrip()[:1] == b'<':
        raise CheckpointError(f'{name}: a web page (HTML), not weights; delete it and download the file itself')
    if is_zip:
        return 'zip'
    if head[:1] == b'\x80' and name.suffix != '.safetensors':
        return 'legacy'
    raise CheckpointError(broken if len(head) < 16 or head[:2] == b'PK' else f'{broken}, or it never was a checkpoint')


def open_checkpoint(path: Path) -> BinaryIO:
    """Open a file of weights for reading; see `open_regular`."""
    try:
        return open_regular(path)
    except InputError as error:
        raise CheckpointError(f'{error}; name a checkpoint file') from None
