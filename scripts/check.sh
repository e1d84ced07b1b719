#!/usr/bin/env bash
# `make check`: formatting, clippy and unit tests. It starts no server and builds no release.
. "$(dirname "$0")/lib.sh"

check_prerequisites
cargo fmt --check --all
cargo clippy --quiet --workspace --locked --all-targets -- -D warnings
cargo test --quiet --workspace --locked --lib
