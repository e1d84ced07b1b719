#!/usr/bin/env bash
# `make prune`: deletes the versions of the users function that get no requests.
. "$(dirname "$0")/lib.sh"
. scripts/stack.sh

deployed prune
