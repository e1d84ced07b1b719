# What the scripts share that deal with the deployed stack: the one of CONFIG in samconfig.toml.
# To be sourced, after lib.sh.
# shellcheck shell=bash

config=${CONFIG:-default}
# SAM knows the second of these names alone, other tools of AWS the first.
[ -z "${AWS_REGION:-}" ] || export AWS_DEFAULT_REGION="${AWS_DEFAULT_REGION:-$AWS_REGION}"
ensure_sam
ensure_botocore

# SAM takes the name of the stack from samconfig.toml; STACK names another.
# shellcheck disable=SC2034  # The scripts that source this use it.
stack=(--config-env "$config" ${STACK:+--stack-name "$STACK"})
# Where its programs are in SAM's bucket: each stack deletes its own.
# shellcheck disable=SC2034
prefix=(${STACK:+--s3-prefix "$STACK"})

# deployed COMMAND...: asks, or changes, the deployed stack; see scripts/stack.py.
# shellcheck disable=SC2154  # lib.sh sets it.
deployed() { PYTHONPATH=$tools/botocore python3 scripts/stack.py "$config" "$@"; }
