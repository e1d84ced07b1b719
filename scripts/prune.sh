#!/usr/bin/env bash
# `make prune`: deletes the versions of the users function that serve no requests.
. "$(dirname "$0")/lib.sh"
. scripts/stack.sh

deployed prune
