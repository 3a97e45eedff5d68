"""`repvit-dense push`: upload a model to the Hugging Face hub."""

import dataclasses
import tempfile
from pathlib import Path

from repvit_dense.artifact import hub
from repvit_dense.artifact.card import card
from repvit_dense.artifact.manifest import is_artifact
from repvit_dense.checkpoints.work_dir import SAFETENSORS, find_checkpoint
from repvit_dense.commands.card import LICENSE, MODEL, subject
from repvit_dense.commands.names import check_names
from repvit_dense.options import option


@dataclasses.dataclass
class Options:
    """Options of `push`."""

    model: str | Path = option(positional=True, metavar='MODEL', help=MODEL)
    repo: str = option(positional=True, metavar='USER/NAME', help='repository; it is created if necessary')
    _: dataclasses.KW_ONLY
    license: str | None = option(None, metavar='SPDX', help=LICENSE)
    private: bool = option(False, help='create a private repository')
    message: str | None = option(None, metavar='TEXT', help='message of this version')


def run(options: Options) -> str:
    """Upload an artifact, or the weights of a checkpoint as safetensors, with its card to the Hugging Face hub.

    Returns:
        the address of this version, `hf://USER/NAME@COMMIT`.

    Raises:
        InputError: there is no such model or no access token, or the hub refuses; the repository is as before.
    """
    hub.check_push(options.repo)
    check_names(options)
    settings = options.private, options.license, options.message
    push = hub.push_artifact if is_artifact(options.model) else push_checkpoint
    address = push(options.model, options.repo, *settings)
    print(address)
    return address


def push_checkpoint(
    model: str | Path, repo: str, private: bool = False, licence: str | None = None, message: str | None = None
) -> str:
    """Upload the weights of a checkpoint or a work dir as `model.safetensors` with the card; see `hub.push`."""
    from repvit_dense.checkpoints.reading import read
    from repvit_dense.checkpoints.writing import write

    name = hub.check_push(repo)
    text = card(subject(model, hub.SCHEME + name, licence))
    with tempfile.TemporaryDirectory() as folder:
        file = write(read(find_checkpoint(str(model))), Path(folder, SAFETENSORS))
        return hub.push(repo, {SAFETENSORS: file}, text, private, message)
