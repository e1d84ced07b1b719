#!/usr/bin/env bash
# `make cache-off`: every request bypasses the cache. It builds nothing.
. "$(dirname "$0")/lib.sh"
. scripts/stack.sh

deployed set CacheEnabled=false
