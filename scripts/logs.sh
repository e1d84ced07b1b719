#!/usr/bin/env bash
# `make logs`: what the deployed functions and the API log, as it comes.
. "$(dirname "$0")/lib.sh"
. scripts/stack.sh

sam logs "${stack[@]}" --tail
