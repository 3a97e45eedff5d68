"""What the thin configs learn on the embedded data, from random weights: ten minutes of a CPU core each.

`make test-learning` runs this; docs/configs.md has the figures that were seen.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# config -> its score, and the least that is expected, a little below what was seen: threads and processors round
# differently, and a training from scratch ends elsewhere.
LEAST = {
    'repvit_segformer_shapes': ('mIoU', 78.0),
    'repvit_semfpn_shapes': ('mIoU', 64.0),
    'repvit_mask2former_shapes-panoptic': ('coco_panoptic/PQ', 33.0),
}
pytestmark = [pytest.mark.learning, pytest.mark.timeout(3600)]


@pytest.mark.parametrize('name', LEAST)
def test_it_learns(name, tmp_path):
    command = [sys.executable, 'tools/train.py', f'configs/{name}.py', '--work-dir', tmp_path, '--seed', '0']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    key, least = LEAST[name]
    (log,) = tmp_path.glob('*/vis_data/scalars.json')
    scores = [line[key] for line in map(json.loads, log.read_text().splitlines()) if key in line]
    assert max(scores) >= least
