"""Read the frames of a video file, a stream or a camera, and write an annotated video."""

import errno
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from repvit_dense.artifact.images import Frame, quiet
from repvit_dense.artifact.pictures import mark_video
from repvit_dense.errors import InputError
from repvit_dense.files import open_regular, replacing

SUFFIXES = (
    *('.3gp', '.avi', '.flv', '.m4v', '.mjpeg', '.mjpg', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts', '.ogv'),
    *('.ts', '.webm', '.wmv'),
)
PLAYLISTS = ('.m3u8', '.mpd')  # of streams
PATIENCE = 15_000  # milliseconds that a stream may take to open or to send a frame
USUAL_RATE = 25.0  # frames per second, of a camera that does not say
CODEC = 'mp4v'  # MPEG-4, which every build of OpenCV with FFmpeg writes


@dataclass(frozen=True)
class Video:
    """A video to predict.

    Attributes:
        name: for messages and results; passwords are hidden in it.
        address: path, address of a stream, or number of a camera.
        live: it has no end of its own: a camera, or a stream of unknown length.
        count: number of frames; None if it is unknown.
        rate: frames per second.
    """

    name: str
    address: str | int
    live: bool = True
    count: int | None = None
    rate: float = USUAL_RATE

    def frames(self, max_pixels: int) -> Iterator[Frame]:
        """Yield the frames; one at a time is in memory.

        Raises:
            InputError: the video cannot be opened, has too large frames, or ends too early.
        """
        capture = _open(self.name, self.address)
        start, number = time.monotonic(), 0
        try:
            width, height = (int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
            if width * height > max_pixels:
                raise InputError(
                    f'{self.name}: its frames have {width}x{height} pixels, at most {max_pixels:,} are read; reduce '
                    'it, or raise --max-pixels (max_pixels=)'
                )
            while (pixels := _read(capture)) is not None:
                seconds = time.monotonic() - start if self.live else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                yield Frame(pixels, self.name, number, round(max(0.0, seconds), 3))
                number += 1
        finally:
            capture.release()
        if self.live:
            raise InputError(f'{self.name}: the stream ended or broke off after {number} frames')
        if not number:
            raise InputError(f'{self.name}: no frame can be decoded')
        if self.count and number < 0.98 * self.count - 2:  # the count is estimated from the duration
            raise InputError(f'{self.name}: ends after {number} of {self.count} frames (cut off or damaged)')


def open_video(name: str, address: str | Path | int) -> Video:
    """Return a video with its number of frames and their rate.

    Raises:
        InputError: it cannot be opened.
    """
    is_file = isinstance(address, Path)
    if isinstance(address, Path):
        open_regular(address).close()
        address = str(address.absolute())
    capture = _open(name, address)
    count, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    known = round(count) if math.isfinite(count) and 0 < count < 1e9 else None
    usable = math.isfinite(rate) and 0.01 < rate <= 1000
    return Video(name, address, not is_file and known is None, known, rate if usable else USUAL_RATE)


def _open(name: str, address: str | int) -> cv2.VideoCapture:
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # silent: errors are reported here, with the name
    try:
        with quiet():
            if isinstance(address, int):
                capture = cv2.VideoCapture(address)
            else:
                limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, PATIENCE, cv2.CAP_PROP_READ_TIMEOUT_MSEC, PATIENCE]
                capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
                if not capture.isOpened() and cv2.CAP_FFMPEG not in cv2.videoio_registry.getStreamBackends():
                    capture = cv2.VideoCapture(address)
    except (cv2.error, ValueError) as error:
        raise InputError(f'{name}: cannot be opened as a video ({" ".join(str(error).split())})') from error
    if not capture.isOpened():
        capture.release()
        reason = 'there is no such camera, or it is in use' if isinstance(address, int) else 'damaged, or not a video'
        if isinstance(address, str) and '://' in address:
            reason = 'no answer, no access, or not a video'
        raise InputError(f'{name}: cannot be opened as a video ({reason})')
    return capture


def _read(capture: cv2.VideoCapture) -> np.ndarray | None:
    try:
        with quiet():
            read, pixels = capture.read()
    except cv2.error:
        return None
    return pixels if read else None


@contextmanager
def writing(path: Path, rate: float, size: tuple[int, ...]) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends a picture to a video; the file is there, and playable, at the end.

    Args:
        path: the file.
        rate: frames per second.
        size: width and height, rounded down to even numbers, as the codec wants them; pictures are resized to it.

    Raises:
        OSError: this OpenCV cannot write such a video.
    """
    width, height = (side // 2 * 2 or 2 for side in size)
    with replacing(path, flush=False) as partial:
        with quiet():
            writer = cv2.VideoWriter(str(partial), cv2.VideoWriter.fourcc(*CODEC), rate, (width, height))
        if not writer.isOpened():
            raise OSError(errno.EIO, f'this OpenCV writes no video of {width}x{height} pixels', str(path))

        def write(picture: np.ndarray) -> None:
            writer.write(picture if picture.shape[1::-1] == (width, height) else cv2.resize(picture, (width, height)))

        try:
            yield write
        finally:
            writer.release()
        mark_video(partial)
