"""Show predictions in a window of OpenCV."""

import os
import subprocess
import sys
from collections.abc import Callable

import cv2
import numpy as np

from repvit_dense.errors import InputError

KEYS_TO_STOP = (ord('q'), 27)  # 27: Escape
PAUSE = 50  # milliseconds between looks at keys and signals
PATIENCE = 30  # seconds


def check_window() -> None:
    """Refuse `--show` if no window can be opened here.

    A window is opened in another process, because OpenCV ends the process if it cannot reach the display.

    Raises:
        InputError: there is no display, or this OpenCV has no windows.
    """
    remedy = 'leave --show out; the pictures are in the output folder'
    if 'GUI:                           NONE' in cv2.getBuildInformation():
        raise InputError(
            f'--show: this OpenCV has no windows (opencv-python-headless); install opencv-python, or {remedy}'
        )
    if sys.platform.startswith('linux') and not (os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')):
        raise InputError(f'--show: there is no display here (DISPLAY is not set); {remedy}')
    code = 'import cv2; cv2.namedWindow("x"); cv2.waitKey(1)'
    try:
        done = subprocess.run([sys.executable, '-c', code], capture_output=True, timeout=PATIENCE)
        opened = done.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        opened = False
    if not opened:
        raise InputError(f'--show: OpenCV cannot open a window on this display; {remedy}')


def show(title: str, picture: np.ndarray, wait: bool, stopped: Callable[[], bool]) -> bool:
    """Show a picture; return whether the user wants to go on.

    Args:
        title: of the window.
        picture: `(H, W, 3)` BGR uint8.
        wait: until a key is pressed, as for single images.
        stopped: whether a signal has ended the run.
    """
    cv2.imshow(title, picture)
    while True:
        key = cv2.waitKey(PAUSE if wait else 1) & 0xFF
        closed = cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1
        if key in KEYS_TO_STOP or closed:
            return False
        if key != 0xFF or not wait or stopped():
            return True
