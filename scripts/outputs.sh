#!/usr/bin/env bash
# `make outputs`: the outputs of the stack, as lines for a shell: eval "$(make outputs)".
. "$(dirname "$0")/lib.sh"
. scripts/stack.sh

deployed outputs
