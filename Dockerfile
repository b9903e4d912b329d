# One file, two images: `api` answers HTTP and holds no PyTorch; `worker` opens uploads and trains.
#
#   docker build --target api    -t fedlas-api    .
#   docker build --target worker -t fedlas-worker .
#   docker build --target worker -t fedlas-worker-gpu \
#     --build-arg WORKER_EXTRA=worker-gpu --build-arg TORCH_INDEX_URL=https://pypi.org/simple .
#
# Debian trixie, on which the tests run as well.

ARG PYTHON=3.11

FROM python:${PYTHON}-slim-trixie AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    FEDLAS_DATA_DIR=/var/lib/fedlas/data \
    FEDLAS_ARTIFACTS=/var/lib/fedlas/artifacts
# One user for both images: stored files are readable for their owner only, and both mount the same folder.
# A new named volume takes the owner of the folder it is mounted on, so the folders must exist in the image.
RUN useradd --uid 10001 --no-create-home --home-dir /var/lib/fedlas --shell /usr/sbin/nologin fedlas \
    && install -d -o fedlas -g fedlas -m 700 /var/lib/fedlas /var/lib/fedlas/data /var/lib/fedlas/artifacts
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
# The same versions in every build: deploy/constraints.py writes them anew.
COPY deploy/constraints.txt deploy/constraints.txt

FROM base AS api
# pg_dump, pg_restore and psql, for `fedlas backup` and `fedlas restore`.
RUN apt-get update && apt-get install --yes --no-install-recommends postgresql-client && rm -rf /var/lib/apt/lists/*
# The dependencies are a layer of their own: it is built again only when pyproject.toml changes, and what pip has
# downloaded once stays with the builder, not in the image.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint deploy/constraints.txt ".[service,postgresql,s3]"
COPY fedlas fedlas
COPY service service
COPY worker worker
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --force-reinstall . && rm -rf build *.egg-info
USER fedlas
WORKDIR /var/lib/fedlas
EXPOSE 8000
# The process alone: a broker that is away is no reason to call the API ill. /readyz says what is missing.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
# Without FEDLAS_API_KEYS it listens on loopback only, which nobody outside the container can reach.
CMD ["fedlas", "api", "--host", "0.0.0.0", "--port", "8000"]

FROM base AS worker
ARG WORKER_EXTRA=worker
# Here PyTorch lies without CUDA (0.2 GB for 3); of equal versions pip takes this index' before PyPI's, since theirs
# ends in `+cpu`.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint deploy/constraints.txt --extra-index-url "${TORCH_INDEX_URL}" \
        ".[${WORKER_EXTRA},postgresql,s3]"
COPY fedlas fedlas
COPY service service
COPY worker worker
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --force-reinstall . && rm -rf build *.egg-info
COPY deploy/worker_health.py /app/worker_health.py
# The driver comes with the host's container toolkit; the CUDA libraries come with PyTorch's wheel. Workers list their
# cards by nvidia-smi, which is of `utility`.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER fedlas
WORKDIR /var/lib/fedlas
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s --retries=3 \
    CMD ["python", "/app/worker_health.py"]
# Which queues and how many at once, Celery's own options say: `-Q calibrate.cpu -c 1`. Without them it takes from all.
CMD ["celery", "-A", "worker.app", "worker"]
