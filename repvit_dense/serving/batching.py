"""Predict the images of concurrent requests in one thread, as many at once as the model takes."""

import json
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from repvit_dense.errors import InputError
from repvit_dense.serving.metrics import Metrics

if TYPE_CHECKING:
    from repvit_dense.artifact.predictor import ImageModel
    from repvit_dense.artifact.result import Result


class ModelError(Exception):
    """The model failed, whatever the image."""


@dataclass
class Job:
    """An image file that waits for its prediction.

    Attributes:
        content: bytes of the file; empty as soon as they are decoded.
        score: objects below this score are left out.
        answer: receives the prediction as JSON, or `InputError` if the image cannot be used, or `ModelError`.
    """

    content: bytes
    score: float
    answer: 'Future[bytes]' = field(default_factory=Future)


class Worker:
    """A thread that predicts; a model is not made to be called by several threads.

    Args:
        model: takes `model.batch_size` images at once. Requests that wait are predicted together, up to this number;
            nothing waits for more of them.
        max_pixels: images with more are refused before they are decoded.
        metrics: receives times and batches.
    """

    def __init__(self, model: 'ImageModel', max_pixels: int, metrics: Metrics):
        self.model, self.max_pixels, self.metrics = model, max_pixels, metrics
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._since: float | None = None  # start of the batch that is being predicted
        self._thread = threading.Thread(target=self._work, name='predict', daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Append a job to the queue. A job whose answer is cancelled while it waits is skipped."""
        self._jobs.put(job)

    def busy(self) -> float:
        """Return for how many seconds the current batch has been predicted."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def _work(self) -> None:
        while True:
            jobs = [self._jobs.get()]
            while len(jobs) < self.model.batch_size and not self._jobs.empty():
                jobs.append(self._jobs.get())
            jobs = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
            self._since = time.monotonic()
            try:
                self._predict(jobs)
            except Exception as error:  # of the model: the thread goes on with the next batch
                failure = ModelError(
                    str(error) if isinstance(error, InputError) else f'{type(error).__name__}: {error}'
                )
                for job in jobs:
                    if not job.answer.done():
                        job.answer.set_exception(failure)
            if jobs:
                self.metrics.observe(len(jobs), self.busy())
            self._since = None

    def _predict(self, jobs: list[Job]) -> None:
        def contents() -> Iterator[bytes]:
            for job in jobs:
                yield job.content
                job.content = b''

        for job, result in zip(jobs, self.model.stream(contents(), self.max_pixels), strict=True):
            if isinstance(result, InputError):
                job.answer.set_exception(result)
            else:
                job.answer.set_result(json.dumps(describe(result, job.score), allow_nan=False).encode())


def describe(result: 'Result', score: float) -> dict[str, Any]:
    """Return a result for JSON: size, objects as in `predictions.json`, and segments with their masks."""
    from repvit_dense.data.reading import run_lengths

    height, width = result.image.shape[:2]
    segments, numbers = result.regions(), result.segment_map()
    for segment in segments:
        segment['mask'] = run_lengths(numbers == segment['number'])
    return {'width': width, 'height': height, 'objects': result.objects(score), 'segments': segments}
