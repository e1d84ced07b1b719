#!/usr/bin/env bash
# `make url`: prints the URL of the deployed API.
. "$(dirname "$0")/lib.sh"
. scripts/stack.sh

deployed output ApiUrl
