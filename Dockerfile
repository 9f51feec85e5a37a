# The first stage installs the locked requirements, the last carries only what runs. Between them is the image of the
# backup job (target "backup"), which has PostgreSQL's client programs besides.
# Nothing is compiled: every locked requirement has a wheel. Tables are made by `registry migrate`, never at start.

FROM python:3.11-slim-bookworm AS build
WORKDIR /opt/registry
RUN python -m venv /opt/venv
COPY requirements/runtime.txt requirements/runtime.txt
RUN /opt/venv/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE alembic.ini ./
COPY migrations migrations
COPY app app
COPY client client
RUN /opt/venv/bin/pip install --no-cache-dir --no-index --no-deps --no-build-isolation -e . \
    && /opt/venv/bin/python -m compileall -q app client migrations \
    && chmod -R a+rX /opt/registry

FROM python:3.11-slim-trixie AS backup
RUN apt-get update && apt-get install --yes --no-install-recommends postgresql-client && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin registry \
    && install --directory --owner=registry --group=registry --mode=0700 /var/lib/registry /var/lib/registry/backups
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/registry /opt/registry
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    REGISTRY_KEY_FILE=/var/lib/registry/keys.json
WORKDIR /var/lib/registry
ENTRYPOINT ["registry"]
CMD ["backup", "daily", "/var/lib/registry/backups"]
USER registry

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin registry \
    && install --directory --owner=registry --group=registry --mode=0700 /var/lib/registry
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/registry /opt/registry
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    REGISTRY_KEY_FILE=/var/lib/registry/keys.json
WORKDIR /var/lib/registry
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["registry"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
USER registry
