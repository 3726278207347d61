# fmalign_jax from its wheel: for the CPU, or with EXTRAS=cuda for a GPU of NVIDIA.
#
#   docker build -t fmalign_jax .
#   docker build -t fmalign_jax:cuda --build-arg EXTRAS=cuda .
#
# docs/sharing.md says how to run it.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
# Extras of pyproject.toml, by commas: cuda brings CUDA's libraries, so that the host
# needs the driver alone.
ARG EXTRAS=""
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    wheel="$(echo /wheels/fmalign_jax-*.whl)" \
    && python -m pip install --no-cache-dir "$wheel${EXTRAS:+[$EXTRAS]}"
# Nobody's home is needed: whoever --user names may write to both folders.
RUN useradd --system --no-create-home --uid 10001 fmalign \
    && install -d -m 1777 /cache /work
ENV XDG_CACHE_HOME=/cache \
    MPLCONFIGDIR=/cache/matplotlib \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER fmalign
WORKDIR /work
ENTRYPOINT ["fmalign"]
CMD ["--help"]
