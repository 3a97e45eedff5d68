"""Models on the Hugging Face hub: `hf://USER/NAME` or `hf://USER/NAME@REVISION`, through the package huggingface_hub.

A repository holds an artifact (`manifest.json` and the files that it lists), a checkpoint (`model.safetensors`), or
both. Nothing else is downloaded, and nothing that is downloaded is executed.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repvit_dense import __version__
from repvit_dense.artifact import card, manifest
from repvit_dense.artifact.rules import is_relative_name
from repvit_dense.checkpoints import fetching
from repvit_dense.checkpoints.provenance import masked
from repvit_dense.checkpoints.work_dir import SAFETENSORS
from repvit_dense.data.reading import read_json
from repvit_dense.errors import InputError, shorten
from repvit_dense.files import replacing
from repvit_dense.screen import say

SCHEME = 'hf://'
LARGEST = 4 << 30  # bytes of one file
MOST_FILES = 1000  # of an artifact
_PART = r'[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?'
ADDRESS = re.compile(rf'(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[\w][\w./-]{{0,200}}))?', re.ASCII)


def is_address(name: object) -> bool:
    """Return whether a name begins with `hf://`."""
    return isinstance(name, str) and name.startswith(SCHEME)


def parse(address: str) -> tuple[str, str | None]:
    """Return the repository and the revision of an address.

    Raises:
        InputError: it is not `hf://USER/NAME` or `hf://USER/NAME@REVISION`.
    """
    match = ADDRESS.fullmatch(address.removeprefix(SCHEME))
    if not match or '..' in address or '--' in match['repo']:
        raise InputError(
            f'{masked(address)}: expected hf://USER/NAME, or hf://USER/NAME@REVISION for a certain version'
        )
    return match['repo'], match['revision']


def fetch(address: str, trainable: bool = False) -> Path:
    """Return the local folder of an artifact, or the local file of a checkpoint; download it first if necessary.

    A repository that holds both is taken for an artifact. Offline, the cache of the hub is used.

    Args:
        address: see `parse`.
        trainable: take the checkpoint of a repository, never the artifact.

    Raises:
        InputError: there is no such repository or revision, access is denied, it holds no model, or the hub cannot be
            reached.
    """
    repo, revision = parse(address)
    if not trainable:
        listed = _file(address, repo, revision, manifest.NAME)
        if listed is not None:
            return _artifact(address, repo, listed)
    checkpoint = _file(address, repo, revision, SAFETENSORS)
    if checkpoint is not None:
        return checkpoint
    wanted = SAFETENSORS if trainable else f'{manifest.NAME} or {SAFETENSORS}'
    if fetching.is_offline() or _library().constants.HF_HUB_OFFLINE:
        raise InputError(f'{address}: not in the cache of this machine, and nothing is downloaded offline')
    raise InputError(f'{address}: this repository has no {wanted}, as `repvit-dense push` writes it')


def _artifact(address: str, repo: str, listed: Path) -> Path:
    """Return a folder with the files of an artifact alone: the cache consists of links, which artifacts must not be."""
    commit = listed.parent.name  # the cache keeps snapshots/COMMIT/manifest.json
    names = read_json(listed, manifest.LARGEST)
    files = names.get('files') if isinstance(names, dict) else None
    if not isinstance(files, dict) or not 0 < len(files) <= MOST_FILES or not all(map(is_relative_name, files)):
        raise InputError(f'{address}: its {manifest.NAME} lists no files of a model; push it again')
    folder = listed.parents[2] / 'repvit_dense' / commit
    if not manifest.is_artifact(folder):
        sources = {name: _file(address, repo, commit, name) for name in files}
        for name, source in sources.items():
            if source is None:
                raise InputError(
                    f'{address}: the repository lacks {name}, which its {manifest.NAME} lists; push it again'
                )
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _place(source, folder / name)
        _place(listed, folder / manifest.NAME)  # last: the folder is complete
    manifest.check_files(folder, manifest.read(folder))
    return folder


def _place(source: Path, target: Path) -> None:
    """Link a file of the cache to another name; copy it if the disk has no hard links."""
    with replacing(target, flush=False) as partial:
        try:
            os.link(os.path.realpath(source), partial)
        except OSError:
            shutil.copyfile(source, partial)


def _file(address: str, repo: str, revision: str | None, name: str) -> Path | None:
    """Return the local path of a file of a repository; None if the repository has none of this name."""
    hub = _library()
    about = {'library_name': 'repvit-dense', 'library_version': __version__}
    offline = fetching.is_offline() or hub.constants.HF_HUB_OFFLINE
    with _explained(address):
        try:
            size = None if offline else _size(hub.hf_hub_url(repo, name, revision=revision))
            if size is not None and size > LARGEST:
                raise InputError(f'{address}: {name} has {size:,} bytes, at most {LARGEST:,} are downloaded')
            return Path(hub.hf_hub_download(repo, name, revision=revision, local_files_only=size is None, **about))
        except hub.errors.LocalEntryNotFoundError as error:
            if offline:
                return None
            raise ConnectionError('no connection, and it is not in the cache') from error
        except hub.errors.EntryNotFoundError:
            return None


def _size(url: str) -> int | None:
    """Return the size of a file in bytes; None if the hub cannot be reached, so that the cache is used."""
    hub = _library()
    try:
        return hub.get_hf_file_metadata(url).size or 0
    except hub.errors.HfHubHTTPError:
        raise
    except Exception:  # of the connection
        return None


@contextlib.contextmanager
def _explained(subject: str) -> Iterator[None]:
    """Turn the errors of the library into one message."""
    errors = _library().errors
    try:
        yield
    except InputError:
        raise
    except errors.GatedRepoError as error:
        raise InputError(f'{subject}: its owner has to grant you access first; ask for it on its page') from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f'{subject}: there is no such repository, or it is private and your access token does not open it. '
            'Check the name, or log in: hf auth login'
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f'{subject}: the repository has no such revision; leave out @REVISION for the newest'
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, 'response', None), 'status_code', None)
        if status in (401, 403):
            raise InputError(
                f'{subject}: the hub refuses this access token ({status}); log in: hf auth login'
            ) from error
        raise InputError(f'{subject}: the hub answered {status or _line(error)}; try again later') from error
    except Exception as error:  # of the connection, of the disk, of a damaged answer
        raise InputError(f'{subject}: the hub cannot be reached ({type(error).__name__}: {_line(error)})') from error


def _line(error: Exception) -> str:
    return shorten(masked(' '.join(str(error).split())), 300)


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise InputError('models on the hub need a package: pip install huggingface_hub') from error
    return huggingface_hub


# --- upload ---


def check_push(repo: str) -> str:
    """Return the name of a repository that a push can go to.

    Raises:
        InputError: it is no name of a repository, there is no access token, or the hub is not to be contacted.
    """
    name, revision = parse(repo)
    if revision:
        raise InputError(f'{repo}: a push makes a new version; leave out @{revision}')
    hub = _library()
    if fetching.is_offline() or hub.constants.HF_HUB_OFFLINE:
        raise InputError(f'{repo}: nothing can be uploaded offline; unset HF_HUB_OFFLINE')
    if not hub.get_token():
        raise InputError(f'{repo}: no access token of the hub; log in (hf auth login), or set HF_TOKEN')
    return name


def push(repo: str, files: dict[str, Path], text: str, private: bool = False, message: str | None = None) -> str:
    """Upload files and a card to a repository in one commit; create the repository if necessary.

    Args:
        repo: USER/NAME, with or without `hf://`.
        files: local file by its name in the repository.
        text: the card, which becomes `README.md`.
        private: create a private repository.
        message: of the commit.

    Returns:
        the address of this version, `hf://USER/NAME@COMMIT`.

    Raises:
        InputError: there is no access token, the hub refuses, or `private` names a public repository; the repository is
            as before.
    """
    name, hub = check_push(repo), _library()
    api = hub.HfApi(library_name='repvit-dense', library_version=__version__)
    operations = [hub.CommitOperationAdd(path, str(file)) for path, file in sorted(files.items())]
    operations.append(hub.CommitOperationAdd('README.md', text.encode()))
    with _explained(f'hf://{name}'):
        api.create_repo(name, private=private, exist_ok=True)
        if private and not api.model_info(name).private:
            raise InputError(
                f'hf://{name}: this repository exists and is public, so --private cannot hide the model; nothing was '
                'uploaded. Make it private on its page, or name another one'
            )
        done = api.create_commit(name, operations, commit_message=message or f'Upload with repvit_dense {__version__}')
    say(f'hf://{name}: {len(operations)} files in version {done.oid[:12]}')
    return f'hf://{name}@{done.oid}'


def files_of(folder: str | Path) -> dict[str, Path]:
    """Return the files of an artifact by their names, after a comparison with its manifest.

    Raises:
        InputError: see `manifest.read` and `manifest.check_files`.
    """
    content = manifest.read(folder)
    manifest.check_files(folder, content)
    if not content.files:
        raise InputError(f'{folder}: an artifact of an early release, without hashes; {manifest.EXPORT_AGAIN}')
    return {name: Path(folder, name) for name in (*content.files, manifest.NAME)}


def push_artifact(folder: str | Path, repo: str, private: bool, licence: str | None, message: str | None) -> str:
    """Upload an artifact with its card, see `push`."""
    name = check_push(repo)
    return push(repo, files_of(folder), card.card(card.of_artifact(folder, SCHEME + name, licence)), private, message)
