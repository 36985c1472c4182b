# One static binary and nothing else: no shell, no libraries, no package manager to break into.
# Build with `make image`, or `docker build --tag wasend-gateway .` It is an image for x86_64: elsewhere set
# DOCKER_DEFAULT_PLATFORM=linux/amd64 before, for `docker compose`, too.

FROM rust:1.95-slim-bookworm AS build
# musl-gcc compiles the C that is linked in: SQLite (bundled) and ring. The package follows the base image's release,
# which is what is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends musl-tools \
    && rm -rf /var/lib/apt/lists/* \
    && rustup target add x86_64-unknown-linux-musl
WORKDIR /src
# With .cargo/config.toml: SQLite's compile-time options come from there.
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --target x86_64-unknown-linux-musl --bin wasend-gateway \
    && install -D --mode=0755 target/x86_64-unknown-linux-musl/release/wasend-gateway /out/wasend-gateway \
    && ! grep -q WASEND_GATEWAY_FAILPOINTS /out/wasend-gateway \
    && install --directory --mode=0700 /out/state /out/tmp

FROM scratch
ARG version=unknown
LABEL org.opencontainers.image.title="wasend-gateway" \
      org.opencontainers.image.description="A guard in front of one irreversible API call" \
      org.opencontainers.image.version="${version}"
COPY --from=build /out/wasend-gateway /wasend-gateway
# A new volume takes over the owner of the folder that it covers, so the ledger is writable without root.
COPY --from=build --chown=65532:65532 /out/state /var/lib/wasend-gateway
# For `demo`, which makes its folder there. Where the root is read-only it needs a tmpfs.
COPY --from=build --chown=65532:65532 /out/tmp /tmp
# A number, since there is no /etc/passwd; orchestrators can check that it is not root.
USER 65532:65532
VOLUME ["/var/lib/wasend-gateway"]
# The caller port and the operators' port, where the configuration says so: by default both listen on loopback.
EXPOSE 8080 9090
# No HEALTHCHECK: it needs a program inside the image to ask with, and there is none. The orchestrator asks /livez
# (restart me) and /readyz (send me requests) on the operators' port.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/wasend-gateway"]
CMD ["serve", "--config", "/etc/wasend-gateway/gateway.toml"]
