#!/usr/bin/env bash
# `make setup`: installs what `run` and `test` need, where possible.
. "$(dirname "$0")/lib.sh"

check_prerequisites
ensure_cargo_lambda
ensure_test_server
