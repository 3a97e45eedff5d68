"""The HTTP API: predictions, limits, and many clients at once."""

import asyncio
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import numpy as np
import pytest
from pycocotools import mask as codec

from repvit_dense.serving import app
from repvit_dense.serving.batching import Job


def test_objects_with_masks_above_a_score(client, png):
    status, answer = client.predict(png(204))
    assert (status, answer['width'], answer['height'], answer['segments']) == (200, 60, 40, [])
    cat, dog = answer['objects']
    assert (cat['label'], cat['score'], cat['box']) == ('cat', 0.8, [0, 0, 30, 40])
    mask = codec.decode({**cat['mask'], 'counts': cat['mask']['counts'].encode()})
    assert np.array_equal(mask[0], [1] * 30 + [0] * 30)
    assert dog['label'] == 'dog'
    assert len(json.loads(client.ask('/predict?score=0.5', png(204))[2])['objects']) == 1
    assert client.ask('/predict?score=2', png(204))[0] == 422


@pytest.mark.parametrize(
    'kind, shares', [('semantic', {'cat': [0.3333], 'dog': [0.3333]}), ('panoptic', {'cat': [0.25, 0.25]})]
)
def test_segments_have_masks(serve, model, png, kind, shares):
    model.kind = kind
    status, answer = serve().predict(png())
    assert (status, answer['objects']) == (200, [])
    found = {}
    for part in answer['segments']:
        mask = codec.decode({**part['mask'], 'counts': part['mask']['counts'].encode()})
        assert mask.mean() == pytest.approx(part['share'], abs=1e-4)
        found.setdefault(part['label'], []).append(part['share'])
    assert found == shares


def test_fifty_clients_get_their_own_answers(serve, model, png):
    client = serve()
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda number: client.predict(png(5 * number)), range(50)))
    assert [status for status, _ in answers] == [200] * 50
    scores = [
        max((each['score'] for each in answer['objects'] if each['label'] == 'cat'), default=0) for _, answer in answers
    ]
    assert scores == pytest.approx([number / 51 if number > 2 else 0 for number in range(50)], abs=1e-4)
    assert client.metric('images_total') == 50
    assert client.metric('waiting_requests') == 0


def test_waiting_requests_are_predicted_together(serve, model, png):
    model.batch_size = 4
    model.go.clear()
    client = serve()
    with ThreadPoolExecutor(9) as pool:
        answers = [pool.submit(client.predict, png(200)) for _ in range(9)]
        client.wait_for('waiting_requests', 9)
        model.go.set()
        assert all(answer.result()[0] == 200 for answer in answers)
    assert sum(model.batches) == 9
    assert max(model.batches) == 4
    assert len(model.batches) <= 4


def test_a_full_queue_is_answered_at_once(serve, model, png):
    model.go.clear()
    client = serve(queue=2)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.predict, png()) for _ in range(2)]
        client.wait_for('waiting_requests', 2)
        status, headers, _ = client.ask('/predict', png())
        assert (status, headers['Retry-After']) == (503, '2')
        assert client.ask('/health')[0] == 200
        model.go.set()
        assert [answer.result()[0] for answer in waiting] == [200, 200]
    assert client.predict(png())[0] == 200


def test_a_model_that_hangs_is_reported(serve, model, png):
    model.go.clear()
    client = serve(seconds=0.3)
    assert client.predict(png())[0] == 504
    assert client.ask('/health')[0] == 503
    model.go.set()
    client.wait_for('images_total', 1)
    assert client.ask('/health')[0] == 200


def test_a_cancelled_request_is_not_predicted(serve, model, png):
    model.go.clear()
    client = serve(seconds=0.8)
    with ThreadPoolExecutor(2) as pool:
        assert {status for status, _ in pool.map(client.predict, [png()] * 2)} == {504}
    model.go.set()
    client.wait_for('images_total', 1)
    assert client.predict(png())[0] == 200
    assert len(model.batches) == 2  # the one that was in progress, and the last


def test_a_job_that_nobody_waits_for_holds_no_image(monkeypatch):
    monkeypatch.setattr(app, 'POLL', 0.01)
    job, worker = Job(b'image', 0.5), Mock()
    with pytest.raises(app.Refusal, match='was not there after 0 s'):
        asyncio.run(app._predict(Mock(), worker, job, app.Limits(1, 1, 1, 0)))
    worker.submit.assert_called_once_with(job)
    assert job.content == b''


def test_a_model_that_fails_ends_nothing(serve, model, png):
    client = serve()
    model.failure = MemoryError('no memory left')
    status, answer = client.predict(png())
    assert status == 500
    assert 'no memory left' in answer['error']
    model.failure = None
    assert client.predict(png())[0] == 200


def test_the_description_names_the_answers(client):
    description = json.loads(client.ask('/openapi.json')[2])
    predict = description['paths']['/predict']['post']
    assert set(predict['requestBody']['content']) == {'image/*', 'application/octet-stream'}
    assert {'200', '400', '413', '415', '503'} <= set(predict['responses'])
    assert set(description['components']['schemas']['Prediction']['properties']) == {
        'width',
        'height',
        'objects',
        'segments',
    }


def test_metrics_can_be_read_by_prometheus(serve, png):
    client = serve()
    client.predict(png())
    client.predict(b'')
    client.wait_for('requests_total{code="400"}', 1)  # counted after the answer, as batches are
    client.wait_for('batch_seconds_count', 2)
    text = client.ask('/metrics')[2].decode()
    answers = r'^repvit_dense_requests_total{code="200"} [1-9]\d*\nrepvit_dense_requests_total{code="400"} 1$'
    assert re.search(answers, text, re.M)
    assert 'repvit_dense_batch_seconds_bucket{le="+Inf"} 2\n' in text
    families = [line.split()[2] for line in text.splitlines() if line.startswith('# TYPE')]
    assert len(families) == len(set(families)) == 5


def test_the_server_ends_after_the_requests_in_progress(serve, model, png):
    model.go.clear()
    client = serve()
    answers = []
    asking = threading.Thread(target=lambda: answers.append(client.predict(png())))
    asking.start()
    client.wait_for('waiting_requests', 1)
    client.server.should_exit = True
    model.go.set()
    asking.join(20)
    assert answers[0][0] == 200
