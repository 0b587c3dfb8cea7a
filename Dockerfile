# The worker's image: `docker build -t event-grid-worker .` (podman and buildah take the same file).
#
#   --build-arg PYTHON=REGISTRY/python@sha256:…   another base, best one of your own registry, pinned by digest
#   --build-arg VERSION=…                         what the labels say; REVISION and CREATED likewise
#   --target local                                with the local hub's AMQP engine, for deploy/k8s/local
#
# Nothing is taken from a registry that requirements/*.lock does not pin with its hash.

ARG PYTHON=python:3.13-slim-trixie

# --- What is compiled and unpacked; only /opt/worker leaves this stage.
FROM ${PYTHON} AS build

# strip, for symbols that only a debugger reads: 27 MB of the libraries' shared objects.
# (No version of the package is pinned: Debian keeps only the newest, and nothing of it is in the image.)
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends binutils \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

COPY requirements/build.lock requirements/run.lock requirements/
RUN python -m venv --without-pip /opt/worker \
    && pip install --require-hashes --requirement requirements/build.lock \
    && pip --python /opt/worker/bin/python install --no-compile --require-hashes --only-binary :all: --requirement requirements/run.lock \
    && find /opt/worker -name '*.so' -exec strip --strip-unneeded {} +

COPY pyproject.toml README.md LICENSE ./
COPY worker/ worker/
RUN pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels . \
    && pip --python /opt/worker/bin/python install --no-compile --no-deps --no-index /wheels/*.whl
# Every module of the worker but the laptop's is imported once: what is missing is missed here, and just what is used is
# compiled; all of it would be 14 MB more. (At run time nothing can be written.)
RUN ["/opt/worker/bin/python", "-c", "import importlib, pkgutil, worker; [importlib.import_module(module.name) for module in pkgutil.walk_packages(worker.__path__, 'worker.') if not module.name.startswith('worker.local')]"]

# --- The same with the local hub's AMQP engine, which is compiled here. Not for production.
FROM build AS build-local

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

COPY requirements/dev.lock requirements/
RUN sed -n '/^python-qpid-proton==/,/[^\\]$/p' requirements/dev.lock > requirements/engine.lock \
    && pip wheel --no-deps --no-build-isolation --require-hashes --requirement requirements/engine.lock --wheel-dir /wheels \
    && pip --python /opt/worker/bin/python install --no-deps --no-index /wheels/python_qpid_proton-*.whl

# --- What both images are, but for the worker.
FROM ${PYTHON} AS runtime

ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="Event Grid worker" \
      org.opencontainers.image.description="Reads Event Grid events from Event Hubs and makes something happen: in order, once, and not lost." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

# Nothing is written: the root file system may be read-only, and should be.
ENV PATH=/opt/worker/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

# Files are read from /app/config, as on a laptop from config/.
WORKDIR /app

# A number, so that Kubernetes can tell that it is not root; nobody of this name has to exist.
USER 10001:10001
EXPOSE 8080

# The worker drains on it; see docs/operations.md, "Stopping".
STOPSIGNAL SIGTERM

# For engines without probes of their own; Kubernetes takes no notice of it. Alive, not ready: as the liveness probe.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/livez', timeout=4)"]

ENTRYPOINT ["worker"]
CMD ["run"]

# --- With the local hub.
FROM runtime AS local
COPY --from=build-local /opt/worker /opt/worker

# --- The image, last, so that it is what a build without --target makes.
FROM runtime AS worker
COPY --from=build /opt/worker /opt/worker
