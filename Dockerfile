# Fettle's image, for those who build with Docker or a builder like it. `make images` makes the same without one, from the same
# programs; a test keeps the two and the chart in agreement. docs/install.md says what it contains.
#
#   docker build --tag registry.example.net/fettle:0.1.0 .

FROM rust:1.95.0-bookworm AS build
# It has the compiler of C that ring and zstd are built with; both become part of the programs, which need no library for them.
# The one that the image brings, without the components that only developers need.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
RUN cargo build --locked --release --package fettle-controller --package fettle-bridge --bins && \
    strip --strip-debug target/release/fettle-controller target/release/fettle-bridge

# The C library of the same Debian, certificates of the public authorities, a user; no shell, no packages.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/fettle-controller /src/target/release/fettle-bridge /usr/local/bin/
USER 65532:65532
# No entry point: the chart names the program.
