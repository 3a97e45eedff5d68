"""The wheel contains everything a user without a checkout needs, and the project files agree with each other."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import repvit_dense

ROOT = Path(__file__).parent.parent
# Scripts that work on the repository only.
NOT_PACKAGED = {'tools/check_prose.py', *(f'tools/pages/{path.name}' for path in (ROOT / 'tools/pages').glob('*.py'))}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy, because setuptools writes into the source folder."""
    source, folder = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source)
    for name in ('repvit_dense', 'configs', 'tools'):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
    command = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '-w', folder]
    subprocess.run([*command, source], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    (path,) = folder.glob('*.whl')
    return path


@pytest.fixture(scope='module')
def metadata(wheel) -> list[str]:
    """Return the lines of the wheel's METADATA file."""
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
    return archive.read(name).decode().splitlines()


def locked_versions() -> dict[str, set[Version]]:
    """Return the versions of every package in the lock: several if they depend on the Python version."""
    versions: dict[str, set[Version]] = {}
    for line in (ROOT / 'requirements/lock.txt').read_text().splitlines():
        name, version = line.partition(' ')[0].split('==')
        versions.setdefault(name, set()).add(Version(version))
    return versions


# --- the wheel ---


def test_configs_and_commands_are_in_the_wheel(wheel):
    expected = {
        path.relative_to(ROOT).as_posix() for name in ('configs', 'tools') for path in (ROOT / name).rglob('*.py')
    }
    prefix = 'repvit_dense/.mim/'
    names = {name.removeprefix(prefix) for name in zipfile.ZipFile(wheel).namelist() if name.startswith(prefix)}
    assert names == expected - NOT_PACKAGED


def test_every_module_the_pages_the_models_and_the_type_marker_are_in_the_wheel(wheel):
    package = ROOT / 'repvit_dense'
    files = [
        *package.rglob('*.py'),
        *(package / 'static').iterdir(),
        *(package / 'pretrained').glob('*/*'),
        package / 'py.typed',
    ]
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    assert not expected - set(zipfile.ZipFile(wheel).namelist())


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


def test_openmmlab_is_an_extra(metadata):
    required = [Requirement(line.partition(': ')[2]) for line in metadata if line.startswith('Requires-Dist')]
    openmmlab = [item for item in required if item.name.startswith('onedl')]
    assert openmmlab
    assert all('extra == "openmmlab"' in str(item.marker) for item in openmmlab)


def test_the_lock_has_a_suitable_version_of_every_requirement(metadata):
    required = [Requirement(line.partition(': ')[2]) for line in metadata if line.startswith('Requires-Dist')]
    locked = locked_versions()
    not_locked = {'coremltools', 'executorch', 'nncf'}  # in requirements/deploy.txt
    for item in required:
        assert item.name in locked.keys() | not_locked
        assert all(version in item.specifier for version in locked.get(item.name, ()))


# --- the project files ---


def test_python_versions_agree(metadata):
    named = {line.rpartition(':: ')[2] for line in metadata if re.match(r'Classifier: .* Python :: 3\.\d', line)}
    workflow = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text())
    assert set(workflow['jobs']['check']['strategy']['matrix']['python']) == named
    oldest, newest = min(named, key=Version), max(named, key=Version)
    assert f'Requires-Python: >={oldest}' in metadata
    assert f'name a Python {oldest} to {newest}"' in (ROOT / 'Makefile').read_text()
    assert f'Python {oldest} to {newest}' in (ROOT / 'docs/install.md').read_text()


def test_the_workflow_runs_nothing_but_ci_run():
    workflow = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text())
    (job,) = workflow['jobs'].values()
    assert [step['run'] for step in job['steps'] if 'run' in step] == ['.ci/run']


def test_commit_hooks_are_local():
    hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())
    assert [source['repo'] for source in hooks['repos']] == ['local']
    entries = [hook['entry'].partition(' ')[0] for hook in hooks['repos'][0]['hooks']]
    assert set(entries) == {'.venv/bin/ruff', 'make'}


def test_the_citation_gives_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert str(citation['version']) == repvit_dense.__version__


def test_the_docker_image_copies_existing_files_and_installs_the_lock():
    text = (ROOT / 'Dockerfile').read_text()
    sources = [word for line in re.findall(r'^COPY (.+)$', text, re.MULTILINE) for word in line.split()[:-1]]
    assert all((ROOT / source).exists() for source in sources)
    ignored = (ROOT / '.dockerignore').read_text().splitlines()
    assert {f'!{source}' for source in sources} <= set(ignored)
    assert re.findall(r'[\w-]+==\d', text) == []  # every version comes from lock.txt
    assert {'torch', 'torchvision', 'triton', 'uv', 'setuptools'} <= locked_versions().keys()


def test_the_cpu_image_drops_the_libraries_of_the_cuda_build():
    pattern = re.search(r"grep -vE '(.+)'", (ROOT / 'Dockerfile').read_text())[1]
    lines = (ROOT / 'requirements/lock.txt').read_text().splitlines()
    dropped = {line.partition('==')[0] for line in lines if re.search(pattern, line)}
    assert {'torch', 'torchvision', 'triton', 'nvidia-cublas', 'nvidia-cudnn-cu13', 'cuda-bindings'} <= dropped
    assert all(re.match('torch|torchvision|triton|nvidia|cuda', name) for name in dropped)
