#!/usr/bin/env bash
# `make cache-on`: requests go through the cache again. It builds nothing.
. "$(dirname "$0")/lib.sh"
. scripts/stack.sh

deployed set CacheEnabled=true
