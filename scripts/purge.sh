#!/usr/bin/env bash
# `make purge`: deletes every entry of NAMESPACE from the Redis of REDIS_URL.
. "$(dirname "$0")/lib.sh"

check_prerequisites
[ -n "${NAMESPACE:-}" ] || die 'NAMESPACE is not set; it names what to remove, as in: make purge NAMESPACE=users'
cargo run --quiet --locked --example purge -- "$NAMESPACE"
