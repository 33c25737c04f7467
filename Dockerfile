# Fathom on an NVIDIA GPU; not built in CI. The CUDA libraries come with JAX (the image takes about 7 GB); of the
# host it needs the driver and the NVIDIA Container Toolkit. Without --gpus all it computes on the CPU:
#   docker build -t fathom .
#   docker run --rm --gpus all -v "$PWD/runs:/work/runs" fathom run --preset quickstart
FROM python:3.12-slim-trixie

# What draws the report's pictures: EGL, or OSMesa without graphics, which later Debians no longer have.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libegl1 libgl1 libosmesa6 \
    && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics

COPY . /opt/fathom
RUN pip install --no-cache-dir -c /opt/fathom/constraints.txt "/opt/fathom[gpu]"

WORKDIR /work
ENTRYPOINT ["pipeline"]
CMD ["--help"]
