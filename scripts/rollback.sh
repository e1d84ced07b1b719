#!/usr/bin/env bash
# `make rollback`: all requests go back to the version before, or to VERSION, in seconds.
. "$(dirname "$0")/lib.sh"
. scripts/stack.sh

deployed rollback ${VERSION:+"$VERSION"}
