# One image for every component: `docker run selfheal jobapi`, `worker`, `controlplane` or `migrate`.
FROM python:3.11-slim AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/selfheal
COPY pyproject.toml requirements.lock ./
# The dependencies first, at their locked versions and without the development tools: this layer changes with
# the lock, not with the code.
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > wanted.txt \
    && /opt/selfheal/bin/pip install --constraint requirements.lock --requirement wanted.txt
COPY . .
RUN /opt/selfheal/bin/pip install --no-deps . \
    && /opt/selfheal/bin/pip check \
    && /opt/selfheal/bin/pip uninstall --yes pip

FROM python:3.11-slim

LABEL org.opencontainers.image.title="selfheal" \
      org.opencontainers.image.licenses="Apache-2.0"

# A fixed number, so that `runAsNonRoot` can be checked without reading the image's passwd file.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin selfheal
COPY --from=build /opt/selfheal /opt/selfheal

# Bytecode was written by pip; at run time the file system may be read-only.
ENV PATH=/opt/selfheal/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SELFHEAL_ENV=production \
    BIND=0.0.0.0 \
    LOG_FORMAT=json

USER 10001:10001
EXPOSE 50051 50052 50053 3000 3001 3002
STOPSIGNAL SIGTERM
ENTRYPOINT ["selfheal"]
CMD ["--help"]
