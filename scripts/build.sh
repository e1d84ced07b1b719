#!/usr/bin/env bash
# `make build`: builds the functions for Lambda's Amazon Linux 2023.
. "$(dirname "$0")/lib.sh"

architecture=${ARCHITECTURE:-$(uname -m)}
[ "$architecture" != aarch64 ] || architecture=arm64
check_prerequisites
check_target "$architecture"
ensure_cargo_lambda
ensure_zig
cargo lambda build --release --bin users --bin invalidate --bin release-check "--${architecture/x86_64/x86-64}" --output-format zip
ls -l target/lambda/*/bootstrap.zip >&2
