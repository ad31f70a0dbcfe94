# The Veltrix worker and its tools. Two stages: the second one has no compiler, no pip cache and no root.
#   docker build --build-arg VERSION="$(git rev-parse --short HEAD)" --tag veltrix .
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS packages
RUN python -m venv --without-pip /opt/venv
COPY requirements.lock /tmp/
# Wheels alone, and only those whose hashes are locked.
RUN python -m pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
    --require-hashes --only-binary :all: --requirement /tmp/requirements.lock

FROM python:${PYTHON}-slim-bookworm AS worker
RUN useradd --uid 10001 --create-home --home-dir /var/lib/veltrix --shell /usr/sbin/nologin veltrix
COPY --from=packages /opt/venv /opt/venv
WORKDIR /opt/veltrix
COPY agents agents
COPY app app
COPY tables tables
RUN python -m compileall -q . \
    && printf '#!/bin/sh\nexec python -m app.cli.main "$@"\n' > /opt/venv/bin/veltrix \
    && chmod 755 /opt/venv/bin/veltrix

ARG VERSION=dev
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/veltrix \
    PYTHONUNBUFFERED=1 \
    VELTRIX_APP_VERSION=$VERSION \
    VELTRIX_DATA_DIR=/var/lib/veltrix/data \
    VELTRIX_SIDECAR_HOST=0.0.0.0 \
    VELTRIX_SIDECAR_PORT=8080 \
    VELTRIX_SIDECAR_ALLOW_REMOTE=true
# The sidecar has no login: whoever publishes this port decides who may reach it (compose.yaml: this machine alone).
EXPOSE 8080
USER 10001:10001
# RocksDB: with a volume of its own a worker restores only the tail of its changelogs.
VOLUME /var/lib/veltrix
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/livez', timeout=2)"]
CMD ["faust", "-A", "app.main", "worker", "-l", "info"]
