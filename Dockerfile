# repvit-dense with the exact versions of requirements/lock.txt:
#
#   docker build -t repvit-dense .
#   docker run --rm -v "$PWD:/work" repvit-dense list
#
# Smaller, without the CUDA libraries: --build-arg TORCH_INDEX=URL, a package index with CPU builds of torch and torchvision.
# For a GPU (run with --gpus all): --build-arg BASE=nvidia/cuda:13.0.2-base-ubuntu24.04
ARG BASE=python:3.12-slim

FROM ${BASE}
ARG TORCH_INDEX=

RUN command -v python3 > /dev/null || { \
        apt-get update \
        && apt-get install --yes --no-install-recommends python3 python3-venv \
        && rm -rf /var/lib/apt/lists/*; \
    }

COPY requirements/lock.txt /tmp/lock.txt
RUN set -eu; \
    python3 -m venv /opt/venv; \
    install="/opt/venv/bin/uv pip install --no-cache --compile-bytecode --python /opt/venv/bin/python --no-deps"; \
    /opt/venv/bin/pip install --no-cache-dir $(grep '^uv==' /tmp/lock.txt); \
    if [ -n "$TORCH_INDEX" ]; then \
        grep -E '^(torch|torchvision)==' /tmp/lock.txt > /tmp/torch.txt; \
        grep -vE '^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)==' /tmp/lock.txt > /tmp/rest.txt; \
        $install --index-url "$TORCH_INDEX" -r /tmp/torch.txt; \
        $install -r /tmp/rest.txt; \
    else \
        $install -r /tmp/lock.txt; \
    fi

COPY setup.py pyproject.toml MANIFEST.in README.md LICENSE /tmp/source/
COPY repvit_dense /tmp/source/repvit_dense
COPY configs /tmp/source/configs
COPY tools /tmp/source/tools
RUN /opt/venv/bin/uv pip install --no-cache --compile-bytecode --python /opt/venv/bin/python --no-deps \
        --no-build-isolation /tmp/source \
    && rm -rf /tmp/*

RUN useradd --create-home repvit && install -d -o repvit /work
USER repvit
WORKDIR /work
ENV PATH=/opt/venv/bin:$PATH
ENTRYPOINT ["repvit-dense"]
CMD ["--help"]
