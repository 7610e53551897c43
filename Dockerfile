# eigsvcd and its worker. Two targets from one file, both non-root and without a compiler or Python:
#
#   docker build --target cpu  --build-arg TORCH_INDEX_URL=<index of CPU builds> -t eigsvc:cpu .
#   docker build --target cuda --build-arg REQUIRE_CUDA=ON -t eigsvc:cuda .
#
# TORCH_INDEX_URL is the package index that LibTorch's wheel is taken from; left empty, pip's own, whose wheel is a build for
# CUDA 13.0, to which the set-up adds NVIDIA's wheels of nvcc. For a wheel of another CUDA name a BUILD_BASE that has its
# nvcc. Without one REQUIRE_CUDA=ON fails.
# The steps are `make build`'s own scripts, so a tree that builds outside builds here.
ARG DEBIAN=debian:12.12-slim
ARG BUILD_BASE=${DEBIAN}

FROM ${BUILD_BASE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG TORCH_INDEX_URL=
ARG REQUIRE_CUDA=OFF
ENV EIGSVC_CACHE=/opt/eigsvc-cache
WORKDIR /src
# What changes least comes first: packages, then the wheel, then the sources.
COPY deploy/setup.sh deploy/nvcc.sh deploy/
COPY deploy/requirements deploy/requirements
RUN deploy/setup.sh build
COPY . .
RUN cmake --preset release -DBUILD_TESTING=OFF -DEIGSVC_REQUIRE_CUDA="${REQUIRE_CUDA}" \
 && cmake --build build-release --target eigsvc eigsvcd eigsvc-worker \
 && deploy/image/package.sh build-release /opt/eigsvc

FROM ${DEBIAN} AS runtime
LABEL org.opencontainers.image.title="eigsvc" \
      org.opencontainers.image.description="Eigenvalue distributions of sequence models, over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/eigsvc /opt/eigsvc
ENV PATH=/opt/eigsvc/bin:/usr/bin:/bin \
    LD_LIBRARY_PATH=/opt/eigsvc/lib \
    EIGSVC_LISTEN=0.0.0.0:50151 \
    EIGSVC_HTTP_LISTEN=0.0.0.0:9464 \
    EIGSVC_ALLOW_REMOTE=true \
    EIGSVC_STATE_DIR=/var/lib/eigsvc \
    EIGSVC_LOG_FORMAT=json
RUN install -d -m 0700 -o 65532 -g 65532 /var/lib/eigsvc && ldconfig
USER 65532:65532
EXPOSE 50151 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["eigsvc", "server", "info", "--server", "127.0.0.1:50151"]
ENTRYPOINT ["eigsvcd"]

FROM runtime AS cpu
ENV EIGSVC_DEVICES=cpu

FROM runtime AS cuda
# The container runtime brings the driver's libraries; everything else of CUDA came with the wheel.
ENV EIGSVC_DEVICES=auto \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    CUDA_MODULE_LOADING=LAZY
