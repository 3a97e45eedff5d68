"""The page of pictures."""

import subprocess
import sys
from pathlib import Path


def test_the_page_needs_no_mmengine():
    code = 'import repvit_dense.page, sys; print(sorted({"mmengine", "torch", "numpy"} & sys.modules.keys()))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout == '[]\n', done.stderr
