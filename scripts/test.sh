#!/usr/bin/env bash
# `make test`: runs all tests, or the parts that TEST_PARTS names. At the end it names what failed, and what this
# machine cannot test.
. "$(dirname "$0")/lib.sh"

# Report what is missing now, and not after minutes.
check_prerequisites
check_pip
ensure_cargo_lambda
ensure_test_server

# `make soak` runs a single test.
if [ "${1:-}" = soak ]; then
  exec cargo test --locked --package users-function --test suite soak:: -- --nocapture
fi

ensure_zig
ensure_sam
ensure_template_tools
. scripts/parts.sh
ensure_openapi_tools || skipped+=('openapi.yaml (schemathesis cannot be installed here)')
# Without these, the tests that need them name what is missing.
ensure_swagger_ui || true
ensure_chromium || true
ensure_serverless_offline || skipped+=('the gateways of serverless-offline (it needs Node 20 and npm)')

# A second DynamoDB for the API, from another project and not adapted to the tests.
moto=(scripts/with-moto.sh)
without=()
if ! ensure_moto; then
  skipped+=('users in a second DynamoDB (moto cannot be installed here)')
  moto=()
  without+=(--skip api::moto)
fi
if [ "$(server_kind "$REDIS_SERVER")" != tls ]; then
  skipped+=("TLS ($REDIS_SERVER has none)")
  without+=(--skip tls::)
fi
# Try it: even root may not mount in a container or a chroot.
if ! unshare --mount mount --bind /dev/null /etc/resolv.conf 2>/dev/null ||
  ! python3 -c 'import socket; socket.socket(type=socket.SOCK_DGRAM).bind(("127.0.53.53", 53))' 2>/dev/null; then
  skipped+=('a silent resolver (it takes root on Linux, who may mount)')
  without+=(--skip a_silent_resolver_holds_up_one_request_and_one_thread)
fi
if ! python3 -c 'import socket; socket.socket(type=socket.SOCK_DGRAM).connect(("192.0.2.1", 9))' 2>/dev/null; then
  skipped+=('a server in protected mode (it takes an address besides that of the loopback)')
  without+=(--skip a_server_that_lets_nobody_in_is_seldom_tried)
fi

# Each test has its own servers and sockets, and under cargo all tests of a binary share one process.
ulimit -Sn 8192 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"

# The example with PostgreSQL is a separate package, so that nobody else compiles it.
postgres_example() {
  if ensure_postgres; then
    cargo test --locked --manifest-path examples/axum-postgres/Cargo.toml --target-dir target
  else
    say "the example ... skipped 'examples/axum-postgres (PostgreSQL is not installed, and cannot be here)'"
  fi
}

# nextest runs the tests of all packages concurrently; most of them wait most of the time. Without nextest, cargo runs
# them.
prebuilt_cargo_tool cargo-nextest 0.9.148 || true
rust_tests() {
  local threads=$(($(getconf _NPROCESSORS_ONLN) * 2))
  export RUST_TEST_THREADS=$threads NEXTEST_TEST_THREADS=$threads
  local status=0 those=(--workspace --locked --no-fail-fast) tests=(--include-ignored ${without[@]+"${without[@]}"})
  if has cargo-nextest; then
    ${moto[@]+"${moto[@]}"} cargo nextest run "${those[@]}" -- "${tests[@]}" || status=1
    cargo test --doc "${those[@]}" || status=1
  else
    ${moto[@]+"${moto[@]}"} cargo test "${those[@]}" -- "${tests[@]}" || status=1
  fi
  return $status
}
part rust rust_tests
part example postgres_example
part template env PYTHONPATH="$tools/template" \
  python3 -m unittest discover --start-directory tests/template --verbose
part end-to-end env PYTHONPATH="$tools/openapi" \
  python3 -m unittest discover --start-directory tests/e2e --verbose

end_of_parts
