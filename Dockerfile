# Two images from one file:  docker build --target server .   docker build --target worker .
FROM python:3.11-slim AS base
RUN useradd --create-home --uid 1000 rvc \
    && mkdir /data && chown rvc:rvc /data
WORKDIR /app
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    OMP_WAIT_POLICY=PASSIVE \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/cache/huggingface \
    RVC_TRAIN_DATA_FOLDER=/data
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE rvc_training_pipeline.py ./
COPY rvc_engine rvc_engine
COPY server server
COPY worker worker
COPY client client

# The HTTP service: no torch.
FROM base AS server
RUN pip install -c constraints.txt '.[server]'
USER rvc
VOLUME /data
EXPOSE 8000
CMD ["python", "-m", "server"]

# The worker with the engine. The CPU build of torch is a sixth of the size of the default one:
#   docker build --target worker --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
FROM base AS worker
ARG TORCH_INDEX=https://pypi.org/simple
RUN pip install -c constraints.txt --extra-index-url "$TORCH_INDEX" '.[server,engine]'
USER rvc
VOLUME /data
CMD ["python", "-m", "worker"]
