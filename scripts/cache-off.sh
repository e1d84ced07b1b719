#!/usr/bin/env bash
# `make cache-off`: every request goes past the cache, to the user store. It builds nothing.
. "$(dirname "$0")/lib.sh"
. scripts/stack.sh

deployed set CacheEnabled=false
