#!/usr/bin/env bash
# `make check`: checks formatting, and runs clippy and the unit tests. It starts no server and builds no release.
. "$(dirname "$0")/lib.sh"

check_prerequisites
cargo fmt --check --all
cargo clippy --quiet --workspace --locked --all-targets -- -D warnings
cargo test --quiet --workspace --locked --lib
