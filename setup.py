"""Package metadata. Configs and tools travel inside the wheel, as in other OpenMMLab packages (`repvit_dense/.mim`)."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'repvit_dense' / '__init__.py').read_text()).group(1)
DEVELOPER_TOOLS = ('pages', 'check_prose.py')  # in tools/, not part of the wheel


class BuildWithConfigs(build_py):
    """Copy `configs/` and `tools/` into the wheel; an editable install reads the original folders."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for folder in ('configs', 'tools'):
            target = Path(self.build_lib) / 'repvit_dense' / '.mim' / folder
            ignored = shutil.ignore_patterns('__pycache__', *DEVELOPER_TOOLS)
            shutil.copytree(ROOT / folder, target, dirs_exist_ok=True, ignore=ignored)


setup(
    name='repvit_dense',
    version=VERSION,
    description='RepViT and its peers as mobile backbones for detection and segmentation, from training to device',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['repvit_dense', 'repvit_dense.*']),
    install_requires=[
        'hotcoco>=1.3',
        'matplotlib',
        'numpy',
        'safetensors',
        'tensorboard',
        'timm>=1.0.31',
        'torch>=2.4',
        'torchvision>=0.19',
        'tqdm',
    ],
    extras_require={
        # The maintained continuation of OpenMMLab. Whoever has the original mmcv, mmdet and mmseg leaves this out.
        'openmmlab': [
            'onedl-mmengine>=0.10.8',
            'onedl-mmcv>=2.3',
            'onedl-mmdetection>=3.4',
            'onedl-mmsegmentation>=1.3',
            'opencv-python-headless',
        ],
        # YOLO and Pascal VOC folders as --data PATH.
        'convert': ['defusedxml', 'pyyaml', 'supervision>=0.31'],
        # One for each format that `repvit-dense export` writes and `Predictor` runs.
        'onnx': ['onnx>=1.20', 'onnxruntime>=1.23', 'onnxscript>=0.7'],
        'openvino': ['onnx>=1.20', 'onnxscript>=0.7', 'openvino>=2026.0'],
        'openvino-int8': ['nncf>=3.4', 'onnx>=1.20', 'onnxscript>=0.7', 'openvino>=2026.0'],
        'coreml': ['coremltools>=9'],
        'executorch': ['executorch>=1.2,<1.3'],
        'dev': ['pytest', 'pytest-timeout', 'pytest-xdist', 'ruff'],
    },
    entry_points={'console_scripts': ['repvit-dense = repvit_dense.cli:main']},
    cmdclass={'build_py': BuildWithConfigs},
)
