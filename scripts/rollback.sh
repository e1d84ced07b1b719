#!/usr/bin/env bash
# `make rollback`: moves all requests back to the release that was live before, or to VERSION, in seconds.
. "$(dirname "$0")/lib.sh"
. scripts/stack.sh

deployed rollback ${VERSION:+"$VERSION"}
