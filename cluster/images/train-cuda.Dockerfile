# syntax=docker/dockerfile:1.9
# picpoint on NVIDIA GPUs; CUDA 13 comes with PyTorch, the driver (580 or newer) from the machine.
#
#   docker build -f cluster/images/train-cuda.Dockerfile -t REGISTRY/train-cuda:0.1.0 \
#     --build-arg PICPOINT_COMMIT="$(git describe --always --dirty --abbrev=12 --exclude='*')" .

ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${PYTHON_IMAGE} AS build
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
COPY cluster/images/requirements-train-cuda.txt /tmp/requirements.txt
RUN pip install --no-deps --require-hashes -r /tmp/requirements.txt
COPY pyproject.toml README.md LICENSE /src/
COPY picpoint /src/picpoint
COPY shards /src/shards
COPY cluster /src/cluster
COPY configs /src/configs
RUN pip install --no-deps /src && pip check

FROM ${PYTHON_IMAGE}
# wget: older KubeRay probes with it. rsync: `ray up` sends files into the container; its login shells
# would forget PATH. gcc: Triton compiles what starts its kernels. Debian's security fixes are wanted,
# so its packages have no pins.
# hadolint ignore=DL3008,SC2016
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 picpoint \
    && useradd --uid 1000 --gid 1000 --create-home --home-dir /home/picpoint picpoint \
    && install --directory --owner 1000 --group 1000 /data \
    && echo 'export PATH=/opt/venv/bin:$PATH' > /etc/profile.d/picpoint.sh
COPY --from=build /opt/venv /opt/venv
ARG PICPOINT_COMMIT=unknown
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/home/picpoint \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_VISIBLE_DEVICES=all \
    NUMBA_CACHE_DIR=/home/picpoint/.cache/numba \
    PICPOINT_COMMIT=${PICPOINT_COMMIT} \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0
LABEL org.opencontainers.image.title="picpoint, CUDA" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.revision="${PICPOINT_COMMIT}"
# A number: Kubernetes cannot tell of a name whether it is root.
USER 1000:1000
WORKDIR /home/picpoint
CMD ["picpoint", "--help"]
