"""The wheel carries everything that a user without a checkout needs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    source, folder = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source)
    for name in ('repvit_dense', 'configs', 'tools'):
        shutil.copytree(ROOT / name, source / name)
    command = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '-w', folder]
    subprocess.run([*command, source], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    (path,) = folder.glob('*.whl')
    return path


def test_configs_and_tools_travel_inside_the_wheel(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ('configs', 'tools'):
        for file in (ROOT / folder).rglob('*.py'):
            is_for_developers = 'pages' in file.parts or file.name == 'check_prose.py'
            assert (f'repvit_dense/.mim/{file.relative_to(ROOT).as_posix()}' in names) != is_for_developers


def test_an_unpacked_wheel_loads_a_packaged_config_by_name(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        'import repvit_dense.config as c; print(c.__file__); '
        "print(c.load('repvit_maskrcnn_shapes').model.roi_head.bbox_head.num_classes)"
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, env={'PYTHONPATH': str(tmp_path)}, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(tmp_path / 'repvit_dense' / 'config' / '__init__.py'), '8'], done.stderr


def test_the_bare_package_does_not_pull_openmmlab(wheel):
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith('METADATA'))
    required = [line for line in archive.read(metadata).decode().splitlines() if line.startswith('Requires-Dist')]
    assert any('onedl-mmdetection' in line and "extra == 'openmmlab'" in line.replace('"', "'") for line in required)
    assert not any('onedl' in line and 'extra' not in line for line in required)
