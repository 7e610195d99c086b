# Builds an image of one flow: docker build -t my-flow --build-arg FLOW=path/to/flow .
#
# BASE: any image with Python 3.11 or newer on glibc. BUILD_BASE: the same Python, with venv and the compilers that the
# flow's packages need. To use another package index, pass pip.conf and its certificates as build secrets
# (docs/operating.md). They are not stored in any layer.
ARG BASE=docker.io/library/python:3.13-slim
ARG BUILD_BASE=${BASE}

# Flowpod's dependencies, as locked.
FROM ${BUILD_BASE} AS build
ENV PIP_CONFIG_FILE=/run/secrets/pip.conf PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1
RUN python3 -m venv /build && python3 -m venv --without-pip /app/venv
COPY requirements.lock /src/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.crt \
    /build/bin/pip --python /app/venv/bin/python install --quiet --require-hashes -r /src/requirements.lock \
    && /build/bin/pip --python /app/venv/bin/python freeze > /src/constraints.txt \
    && /app/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /app/venv/lib
# Flowpod and the flow's packages stay outside the virtual environment, so that each gets its own layer.
RUN /app/venv/bin/python -c "import sysconfig; place = lambda **base: sysconfig.get_path('purelib', vars=base); \
    open(place() + '/flowpod.pth', 'w').write('/app/flowpod\n' + place(base='/app/packages') + '\n')"

FROM build AS flowpod
COPY requirements-build.lock /src/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.crt \
    /build/bin/pip install --quiet --require-hashes -r /src/requirements-build.lock
COPY pyproject.toml README.md LICENSE /src/
COPY runtime /src/runtime
RUN /build/bin/pip wheel --quiet --no-deps --no-build-isolation --no-index -w /src/wheels /src \
    && /build/bin/pip --python /app/venv/bin/python install --quiet --no-deps --no-index --target /app/flowpod /src/wheels/*.whl \
    && /app/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /app/flowpod

# The flow with its included files and connections, and the list of the packages that it requires.
FROM flowpod AS packed
ARG FLOW=flow
COPY . /context
RUN /app/flowpod/bin/flowpod pack "/context/${FLOW}" /packed

# The flow's packages, constrained to the locked versions: a conflict fails the build.
FROM build AS packages
COPY --from=packed /packed/requirements.txt /src/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.crt mkdir -p /app/packages \
    && /build/bin/pip --python /app/venv/bin/python install --progress-bar off --prefix /app/packages \
        -c /src/constraints.txt -r /src/requirements.txt \
    && /app/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /app/packages

# The bill of materials (CycloneDX) of all that the image contains: the packages above, Python, and the base image's
# Debian packages.
FROM ${BASE} AS base
RUN if command -v dpkg-query > /dev/null; then dpkg-query -W -f '${Package} ${Version} ${Architecture}\n'; fi > /packages.txt

FROM build AS sbom
COPY requirements-sbom.lock runtime/sbom.py /src/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.crt \
    /build/bin/pip install --quiet --require-hashes -r /src/requirements-sbom.lock
COPY --from=base /packages.txt /etc/os-release /src/
COPY --from=flowpod /app/flowpod /app/flowpod
COPY --from=packages /app/packages /app/packages
RUN . /src/os-release \
    && /build/bin/cyclonedx-py environment --spec-version 1.6 --output-reproducible /app/venv/bin/python > /src/python.json \
    && /build/bin/python /src/sbom.py "$(python3 -c 'import platform; print(platform.python_version())')" "${ID}" \
        /src/packages.txt < /src/python.json > /sbom.cdx.json

FROM ${BASE}
LABEL org.opencontainers.image.title="Flowpod" \
      org.opencontainers.image.description="An LLM application flow, served over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
# Remove pip. Add an unprivileged user in group 0, as platforms that assign arbitrary user ids expect. Compile the
# standard library, because Python cannot write bytecode to a read-only root file system.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* /usr/share/python-wheels \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')/ensurepip" \
    && echo 'flowpod:x:10001:0::/langstudio/flow:/usr/sbin/nologin' >> /etc/passwd \
    && mkdir -p /langstudio/flow && chmod 0775 /langstudio/flow && chown 10001:0 /langstudio/flow \
    && python3 -m compileall -q -j 0 -x '/(test|tests|idlelib|lib2to3|tkinter|turtledemo|site-packages|dist-packages)/' \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY --from=build /app/venv /app/venv
COPY --from=flowpod /app/flowpod /app/flowpod
COPY --from=packages /app/packages /app/packages
COPY --from=sbom /sbom.cdx.json /app/
ENV PATH=/app/flowpod/bin:/app/venv/bin:/app/packages/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    FLOWPOD_DATA_DIR=/langstudio/flow HOME=/langstudio/flow TMPDIR=/langstudio/flow
USER 10001:0
WORKDIR /app
VOLUME /langstudio/flow
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["python", "-c", \
    "import http.client as http; c = http.HTTPConnection('127.0.0.1', 8080, timeout=2); c.request('GET', '/healthz'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["flowpod"]
CMD ["serve", "/app/flow", "--host", "0.0.0.0", "--port", "8080"]
# The flow comes last, so that an edited flow changes only this layer. A broken flow fails the build.
COPY --from=packed /packed/ /app/
RUN flowpod check /app/flow
