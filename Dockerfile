# docker build -t wharf . && docker run -p 8080:8080 wharf
#
# Another configuration: docker run -p 8080:8080 -v "$PWD/my.toml:/etc/wharf/wharf.toml:ro" wharf
#   Nothing in the image overrides it, so it has to say listen = "0.0.0.0:8080" under [server]: a container's loopback is its own.
# Metrics, health and the dashboard, at http://localhost:8081/ with any name and this token as the password:
#   docker run -p 8080:8080 -p 127.0.0.1:8081:8081 -e WHARF_ADMIN_LISTEN=0.0.0.0:8081 -e WHARF_ADMIN_TOKEN=… wharf
# An end without an error: docker stop -t 35. `docker stop` kills after 10 s, and server.drain_timeout is 30 s unless told
#   otherwise. The same time is stop_grace_period in Compose, and terminationGracePeriodSeconds in Kubernetes.

FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
# What `wharf version` says: docker build --build-arg WHARF_COMMIT=$(git rev-parse --short=12 HEAD) …
ARG WHARF_COMMIT
# The caches keep dependencies built between builds; the binary is copied out because a cache is no part of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin wharf && cp target/release/wharf /usr/local/bin/wharf
# The demo, for whoever connects from outside of the container.
RUN sed 's/^listen = "127.0.0.1:8080"$/listen = "0.0.0.0:8080"/' config/wharf.toml >/usr/local/etc/wharf.toml \
    && grep -q '^listen = "0.0.0.0:8080"$' /usr/local/etc/wharf.toml

FROM debian:bookworm-slim
# The certificates are for PostgreSQL over TLS with sslrootcert=system.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --home-dir /var/lib/wharf --shell /usr/sbin/nologin wharf
COPY --from=build /usr/local/bin/wharf /usr/local/bin/wharf
COPY --from=build /usr/local/etc/wharf.toml /etc/wharf/wharf.toml
# glibc gives blocks above this size back to the system when they are freed (docs/clients-and-limits.md).
ENV MALLOC_MMAP_THRESHOLD_=262144
ENV WHARF_CONFIG=/etc/wharf/wharf.toml
# The demo's SQLite file is made in the working directory.
WORKDIR /var/lib/wharf
VOLUME /var/lib/wharf
USER wharf
EXPOSE 8080 8081
# It asks where the configuration says, through TLS and with the PROXY protocol where the configuration has these. The time is
# more than it waits for itself: 2 s for a connection, and 2 s for the answer.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["wharf", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["wharf"]
CMD ["serve"]
