"""Find GPUs without importing PyTorch, so that a wrong device is refused at once."""

import importlib.util
import os
import re
import sys
from pathlib import Path

from repvit_dense.errors import InputError

UNCOUNTED = ('/dev/dxg', '/dev/kfd')  # GPUs of Windows' Linux and of AMD: there is at least one


def check(device: str | None, launcher: str = 'none') -> None:
    """Refuse a device that is none, or that is not there.

    Raises:
        InputError: says which ones there are.
    """
    if device is None:
        return
    device = str(device)  # from Python it may be 0 or a torch.device
    match = re.fullmatch(r'cpu|mps|cuda(?::([0-9]{1,3}))?', device)
    if not match:
        raise InputError(f'--device {device}: expected cpu, cuda, or the number of a GPU such as cuda:1')
    if match[1] and launcher != 'none':
        raise InputError(f'--device {device}: the launcher gives every process its GPU; leave the number out')
    if device.startswith('cuda'):
        number = count()
        if not number:
            raise InputError(
                f'--device {device}: there is no GPU here that PyTorch can use; leave it out, or --device cpu'
            )
        if match[1] and int(match[1]) >= number and not any(map(os.path.exists, UNCOUNTED)):
            raise InputError(f'--device {device}: there are {number} GPUs here, cuda:0 to cuda:{number - 1}')


def count() -> int:
    """Return the number of GPUs that PyTorch can use; with `UNCOUNTED` ones, at least 1."""
    torch = sys.modules.get('torch')
    if hasattr(torch, 'cuda'):
        return int(torch.cuda.device_count())  # type: ignore[union-attr]
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    spec = importlib.util.find_spec('torch')
    version = Path(spec.origin).with_name('version.py') if spec and spec.origin else None
    if visible in ('', '-1') or version is None or not version.is_file():
        return 0
    if not re.search(r"^(cuda|hip)\b.*=\s*'", version.read_text(), re.MULTILINE):  # built for CPUs only
        return 0
    number = len(list(Path('/dev').glob('nvidia[0-9]*'))) or int(any(map(os.path.exists, UNCOUNTED)))
    return min(number, len(visible.split(','))) if visible else number
