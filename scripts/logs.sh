#!/usr/bin/env bash
# `make logs`: follows the logs of the deployed functions and the API.
. "$(dirname "$0")/lib.sh"
. scripts/stack.sh

sam logs "${stack[@]}" --tail
