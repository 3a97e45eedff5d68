"""Find the trained models of the package: artifacts that commands and `load` take by name, such as `nuclei`."""

from pathlib import Path

from repvit_dense.artifact.manifest import is_artifact
from repvit_dense.files import is_folder
from repvit_dense.screen import say

ROOT = Path(__file__).parents[1] / 'pretrained'
# Name -> the objects of the model, for `repvit-dense list models`.
NAMES = {'nuclei': 'nuclei in microscope images: fluorescence, histology, brightfield'}


def folder(name: str | Path) -> Path | None:
    """Return the folder of a packaged model, or None if there is no model of this name."""
    return ROOT / str(name) if str(name) in NAMES else None


def resolve(name: str | Path) -> str | Path:
    """Return the folder that a name stands for: that of a packaged model; any other name is returned unchanged.

    A folder of this name in the current directory goes first if it holds a model. A line says which was taken.
    """
    packaged = folder(name)
    if packaged is None or not is_folder(name):
        return packaged or name
    here = Path(name).absolute()
    if is_artifact(here) or any(here.glob('*.pth')):
        say(f'note: {name}: the model in the folder {here}, not the packaged one')
        return here
    say(f'note: {name}: the packaged model; the folder {here} holds no model')
    return packaged
