# syntax=docker/dockerfile:1
# finetrainers for NVIDIA GPUs: docker build -t finetrainers . ; how to run it is told in docs/deploy/container.md.
ARG CUDA=12.8.1
FROM nvidia/cuda:${CUDA}-runtime-ubuntu24.04

# Further packages, of those that pyproject.toml names. A plain pip install takes the newest; constraints.txt is what CI tests.
ARG EXTRAS=bitsandbytes,torchao,prodigyopt,schedulefree,pytorch-optimizer,kernels,tensorboard,wandb,trackio,canny,curate,s3,gcs,https,ui
ARG USER_ID=1001

# A compiler, for the kernels that torch.compile and triton make while a run begins.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv python3-dev gcc g++ ca-certificates \
    && rm -rf /var/lib/apt/lists/*

# Volumes belong to the user that trains: what is written in them outlives the container. The base has a user 1000 of its own,
# a number that the one who builds may have, too.
RUN (userdel --remove ubuntu 2>/dev/null || true) \
    && useradd --create-home --uid ${USER_ID} trainer \
    && install --directory --owner=trainer --group=trainer /cache /data /runs

WORKDIR /opt/source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/finetrainers \
    && /opt/finetrainers/bin/pip install --constraint constraints.txt ".[${EXTRAS}]"

ENV PATH=/opt/finetrainers/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/cache/huggingface \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    TRITON_CACHE_DIR=/cache/triton

USER trainer
WORKDIR /runs
VOLUME ["/cache", "/data", "/runs"]
# SIGTERM, which docker stop sends, saves and ends with status 3: give it time with --stop-timeout.
STOPSIGNAL SIGTERM
ENTRYPOINT ["finetrainers"]
CMD ["--help"]
