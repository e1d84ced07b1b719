#!/usr/bin/env bash
# `make setup`: what `run` and `test` need, where it can be installed.
. "$(dirname "$0")/lib.sh"

check_prerequisites
ensure_cargo_lambda
ensure_test_server
