FROM python:3.13-slim AS builder

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# The locks come first, so this layer is reused until a dependency changes. Only wheels, so that no compiler is needed.
# botocore has data for every service of AWS. The service uses S3; the others that stay provide credentials.
COPY requirements-build.lock requirements-server.lock ./
RUN python -m venv --without-pip /opt/model-registry \
    && pip install --quiet --require-hashes --only-binary :all: -r requirements-build.lock --target /opt/build \
    && pip --python /opt/model-registry/bin/python install --quiet \
        --require-hashes --only-binary :all: -r requirements-server.lock \
    && find /opt/model-registry/lib/python3.13/site-packages/botocore/data -mindepth 1 -maxdepth 1 -type d \
        ! -name s3 ! -name signin ! -name sso ! -name sso-oidc ! -name sts -exec rm -r {} +

COPY pyproject.toml README.md ./
COPY app app
RUN PYTHONPATH=/opt/build pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/model-registry/bin/python install --quiet --no-deps dist/*.whl \
    && pip --python /opt/model-registry/bin/python check


FROM python:3.13-slim

LABEL org.opencontainers.image.title="Model Registry Service" \
      org.opencontainers.image.description="Stores, versions and serves machine-learning models." \
      org.opencontainers.image.licenses="Apache-2.0"

COPY --from=builder /opt/model-registry /opt/model-registry
ENV PATH=/opt/model-registry/bin:$PATH PYTHONUNBUFFERED=1

# pip compiles the packages, but the base image has no bytecode for the standard library. One import of everything
# creates it for the modules that the service uses. Later Python writes nothing: the root file system may be read-only.
RUN groupadd --gid 10001 registry \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin registry \
    && python -c "import alembic.command, model_registry.api, model_registry.server.commands, model_registry.server.serve" \
    && model-registry --help > /dev/null
ENV PYTHONDONTWRITEBYTECODE=1

USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s --retries=3 CMD ["model-registry", "healthcheck"]

ENTRYPOINT ["model-registry"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
