# syntax=docker/dockerfile:1.9
# picpoint with NVIDIA Kaolin, for rendering on GPUs. Kaolin takes no torch above 2.12, so this image
# has its own; shards are all that passes between it and those for training.
#
#   docker build -f cluster/images/render.Dockerfile -t REGISTRY/render:0.1.0 \
#     --build-arg PICPOINT_COMMIT="$(git describe --always --dirty --abbrev=12 --exclude='*')" .

ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d
# The CUDA that torch 2.12.1 of PyPI is built with.
ARG CUDA_IMAGE=nvidia/cuda:13.0.2-devel-ubuntu24.04@sha256:5dc1bca23d05bd37b011be68ec470c03b403a5da07ec3a86e41af9470e9d0cc6

FROM ${CUDA_IMAGE} AS cuda

FROM ${PYTHON_IMAGE} AS packages
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
COPY cluster/images/requirements-render.txt /tmp/requirements.txt
RUN pip install --no-deps --require-hashes -r /tmp/requirements.txt

FROM packages AS kaolin
# After 0.18.0, whose own limit is torch 2.8.
ARG KAOLIN_COMMIT=d52da9f86d460e8abcd99037e21ff0bec57997ed
ARG TORCH_CUDA_ARCH_LIST="7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
ENV CUDA_HOME=/usr/local/cuda-13.0 FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST}
# Security fixes of Debian are wanted, so its packages have no pins.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git \
    && rm -rf /var/lib/apt/lists/*
COPY --from=cuda /usr/local/cuda-13.0 /usr/local/cuda-13.0
RUN pip install --no-deps setuptools==75.8.2 wheel==0.45.1 ninja==1.13.0
RUN git init --quiet /kaolin \
    && git -C /kaolin fetch --quiet --depth 1 https://github.com/NVIDIAGameWorks/kaolin ${KAOLIN_COMMIT} \
    && git -C /kaolin checkout --quiet FETCH_HEAD \
    && pip wheel --no-deps --no-build-isolation --wheel-dir /wheels /kaolin

FROM packages AS build
COPY --from=kaolin /wheels /wheels
COPY pyproject.toml README.md LICENSE /src/
COPY picpoint /src/picpoint
COPY shards /src/shards
COPY cluster /src/cluster
COPY configs /src/configs
RUN pip install --no-deps /wheels/kaolin-*.whl /src

FROM ${PYTHON_IMAGE}
# As in train-cpu.Dockerfile.
# hadolint ignore=DL3008,SC2016
RUN apt-get update \
    && apt-get install --yes --no-install-recommends rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 picpoint \
    && useradd --uid 1000 --gid 1000 --create-home --home-dir /home/picpoint picpoint \
    && install --directory --owner 1000 --group 1000 /data \
    && echo 'export PATH=/opt/venv/bin:$PATH' > /etc/profile.d/picpoint.sh
COPY --from=build /opt/venv /opt/venv
ARG PICPOINT_COMMIT=unknown
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/home/picpoint \
    NUMBA_CACHE_DIR=/home/picpoint/.cache/numba \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_VISIBLE_DEVICES=all \
    PICPOINT_COMMIT=${PICPOINT_COMMIT} \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0
LABEL org.opencontainers.image.title="picpoint, rendering" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.revision="${PICPOINT_COMMIT}"
USER 1000:1000
WORKDIR /home/picpoint
CMD ["picpoint", "--help"]
