#!/usr/bin/env bash
# `make test`: everything. What cannot run here is named as skipped at the end; in CI it fails.
. "$(dirname "$0")/lib.sh"

scripts/setup.sh
PATH=$(dirname "$(find_redis_server)"):$PATH

cargo test --locked
python3 -m unittest discover --start-directory tests/e2e --verbose
