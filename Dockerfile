# docker build -t wharf . && docker run -p 8080:8080 wharf
# Another configuration: docker run -p 8080:8080 -v "$PWD/my.toml:/etc/wharf/wharf.toml:ro" wharf

FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches keep dependencies built between builds; the binary is copied out because a cache is no part of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin wharf && cp target/release/wharf /usr/local/bin/wharf

FROM debian:bookworm-slim
# The certificates are for PostgreSQL over TLS with sslrootcert=system.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --home-dir /var/lib/wharf --shell /usr/sbin/nologin wharf
COPY --from=build /usr/local/bin/wharf /usr/local/bin/wharf
COPY config/wharf.toml /etc/wharf/wharf.toml
ENV WHARF_CONFIG=/etc/wharf/wharf.toml WHARF_LISTEN=0.0.0.0:8080
# The demo's SQLite file is made in the working directory.
WORKDIR /var/lib/wharf
VOLUME /var/lib/wharf
USER wharf
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["wharf", "health"]
ENTRYPOINT ["wharf"]
CMD ["serve"]
