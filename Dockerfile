# Two images from one file:  docker build --target server .   docker build --target worker .
# By digest, for a build that can be repeated: --build-arg BASE=python:3.11-slim@sha256:...
ARG BASE=python:3.11-slim

# Packages go into a virtual environment that the images take over whole. There is no compiler: all come as wheels.
FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_NO_COMPILE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PIP_ONLY_BINARY=:all: \
    PIP_CONSTRAINT=/build/constraints.txt
WORKDIR /build
RUN python -m venv --without-pip /opt/rvc-train
COPY pyproject.toml constraints.txt ./

# The dependencies without our code, so that a change of ours alone makes a small layer.
FROM build AS server-packages
RUN mkdir samples && touch README.md LICENSE NOTICE rvc_training_pipeline.py \
    && pip --python /opt/rvc-train/bin/python install '.[server,postgres,storage]' \
    && pip --python /opt/rvc-train/bin/python uninstall --yes rvc-train \
    && python -P -m compileall -q -j 0 /opt/rvc-train/lib

# Our code, installed for the environment above but into a folder of its own.
FROM build AS code
COPY README.md LICENSE NOTICE rvc_training_pipeline.py ./
COPY samples samples
COPY rvc_engine rvc_engine
COPY server server
COPY worker worker
COPY rvc_train rvc_train
COPY client client
RUN pip --python /opt/rvc-train/bin/python install --no-deps --compile --root /code .

FROM ${BASE} AS runtime
RUN useradd --create-home --uid 1000 rvc \
    && mkdir --mode=700 /data && chown rvc:rvc /data
ENV PATH=/opt/rvc-train/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_WAIT_POLICY=PASSIVE \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/cache/huggingface \
    RVC_TRAIN_DATA_FOLDER=/data
WORKDIR /home/rvc
USER 1000:1000
VOLUME /data
LABEL org.opencontainers.image.title="rvc-train" \
      org.opencontainers.image.description="Training server for RVC voices" \
      org.opencontainers.image.licenses="MIT"

# The HTTP service: no torch.
FROM runtime AS server
COPY --from=server-packages /opt/rvc-train /opt/rvc-train
COPY --from=code /code/opt/rvc-train /opt/rvc-train
ENV RVC_TRAIN_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s \
    CMD ["python", "-P", "-c", "import os, urllib.request as web; \
web.urlopen(f'http://127.0.0.1:{os.environ.get(\"RVC_TRAIN_PORT\") or 8000}/readyz', timeout=5)"]
CMD ["python", "-P", "-m", "server"]

# The worker's dependencies. TORCH_INDEX=https://download.pytorch.org/whl/cpu has a CPU build of torch, a sixth of the
# size of the default one.
FROM build AS worker-packages
ARG TORCH_INDEX=https://pypi.org/simple
RUN mkdir samples && touch README.md LICENSE NOTICE rvc_training_pipeline.py \
    && pip --python /opt/rvc-train/bin/python install --extra-index-url "$TORCH_INDEX" '.[all,postgres,storage]' \
    && pip --python /opt/rvc-train/bin/python uninstall --yes rvc-train \
    # Parts of torch that only a compiler or torch's own tests use.
    && for part in test include 'bin/test_*'; do rm -rf /opt/rvc-train/lib/python3*/site-packages/torch/$part; done \
    && python -P -m compileall -q -j 0 -x 'transformers/models|torch/(_inductor|_dynamo|testing)|sympy' /opt/rvc-train/lib

# The worker with the engine.
FROM runtime AS worker
COPY --from=worker-packages /opt/rvc-train /opt/rvc-train
COPY --from=code /code/opt/rvc-train /opt/rvc-train
# The worker touches this file when the server's database has taken a heartbeat of its.
ENV RVC_TRAIN_HEARTBEAT_FILE=/tmp/heartbeat
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s \
    CMD find "$RVC_TRAIN_HEARTBEAT_FILE" -newermt "60 seconds ago" | grep -q .
CMD ["python", "-P", "-m", "worker"]
