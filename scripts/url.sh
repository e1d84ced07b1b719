#!/usr/bin/env bash
# `make url`: where the deployed API is.
. "$(dirname "$0")/lib.sh"
. scripts/stack.sh

deployed output ApiUrl
