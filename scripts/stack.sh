# What the scripts share that work on the deployed stack, the one of CONFIG in samconfig.toml. Source this file after
# lib.sh.
# shellcheck shell=bash

config=${CONFIG:-default}
# SAM knows only the second of these names, other AWS tools the first.
[ -z "${AWS_REGION:-}" ] || export AWS_DEFAULT_REGION="${AWS_DEFAULT_REGION:-$AWS_REGION}"
ensure_sam
ensure_botocore

# SAM reads the name of the stack from samconfig.toml; STACK overrides it.
# shellcheck disable=SC2034  # The scripts that source this use it.
stack=(--config-env "$config" ${STACK:+--stack-name "$STACK"})
# The prefix of its programs in SAM's bucket, so that each stack deletes only its own.
# shellcheck disable=SC2034
prefix=(${STACK:+--s3-prefix "$STACK"})

# deployed COMMAND...: reads or changes the deployed stack; see scripts/stack.py.
# shellcheck disable=SC2154  # lib.sh sets it.
deployed() { PYTHONPATH=$tools/botocore python3 scripts/stack.py "$config" "$@"; }
