#!/usr/bin/env bash
# `make rollback`: moves all requests back to the previous version, or to VERSION, in seconds.
. "$(dirname "$0")/lib.sh"
. scripts/stack.sh

deployed rollback ${VERSION:+"$VERSION"}
