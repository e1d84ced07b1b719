#!/usr/bin/env bash
# `make test`: everything. What cannot run here is named as skipped at the end; in CI it fails.
. "$(dirname "$0")/lib.sh"

scripts/setup.sh
PATH=$(dirname "$(find_redis_server)"):$PATH

# `make soak` asks for one of the tests alone.
if [ "${1:-}" = soak ]; then
  exec cargo test --locked --test soak -- --nocapture
fi

skipped=()
without=()
# A server without TLS does not know the option; one with it finds that it has nowhere to listen.
case $("$(find_redis_server)" --port 0 --tls-port 0 2>&1 || true) in
  *'listen anywhere'*) ;;
  *)
    skipped+=("TLS (the redis-server here, $(find_redis_server), has none)")
    without+=(--skip tls::)
    ;;
esac
if [ "$(uname -s)" != Linux ] || [ "$(id -u)" != 0 ]; then
  skipped+=('a silent resolver (needs root on Linux)')
fi

ensure_openapi_tools || skipped+=('openapi.yaml (schemathesis cannot be installed here)')

cargo test --locked -- ${without[@]+"${without[@]}"}
# The API once more, on users in DynamoDB: by one emulator, and by another that nothing is fitted to.
say 'the API on dynoxide'
TEST_USERS=dynoxide cargo test --locked --quiet --test api
if ensure_moto; then
  say 'the API on moto'
  scripts/with-moto.sh cargo test --locked --quiet --test api
else
  skipped+=('users in a second DynamoDB (moto cannot be installed here)')
fi
say 'the template'
(
  # In their own shell: the Python of SAM comes before others on the PATH then.
  ensure_sam
  ensure_template_tools
  PYTHONPATH=$tools/template python3 -m unittest discover --start-directory tests/template --verbose
)
PYTHONPATH=$tools/openapi python3 -m unittest discover --start-directory tests/e2e --verbose

for what in ${skipped[@]+"${skipped[@]}"}; do
  say "SKIPPED: $what"
done
if [ -n "${CI:-}" ] && [ ${#skipped[@]} -gt 0 ]; then
  die 'CI must not skip anything'
fi
