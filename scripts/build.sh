#!/usr/bin/env bash
# `make build`: the function as Lambda takes it, for Amazon Linux 2023.
. "$(dirname "$0")/lib.sh"

architecture=${ARCHITECTURE:-$(uname -m)}
case $architecture in
  x86_64) flag=--x86-64 target=x86_64-unknown-linux-gnu ;;
  arm64 | aarch64) flag=--arm64 target=aarch64-unknown-linux-gnu ;;
  *) die "ARCHITECTURE is $architecture; accepted: x86_64, arm64" ;;
esac
check_prerequisites
[ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] || die "Rust cannot build for $target yet" \
  "rustup target add $target"
ensure_cargo_lambda
ensure_zig
cargo lambda build --release --bin users --bin invalidate "$flag" --output-format zip
ls -l target/lambda/*/bootstrap.zip >&2
