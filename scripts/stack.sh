# What the scripts share that deal with the deployed stack: the one of CONFIG in samconfig.toml.
# To be sourced, after lib.sh.
# shellcheck shell=bash

config=${CONFIG:-default}
# SAM knows the second of these names alone, other tools of AWS the first.
[ -z "${AWS_REGION:-}" ] || export AWS_DEFAULT_REGION="${AWS_DEFAULT_REGION:-$AWS_REGION}"
ensure_sam

# SAM takes the name of the stack from samconfig.toml; STACK names another.
stack=(--config-env "$config" ${STACK:+--stack-name "$STACK"})

# output NAME: what the stack says of itself; empty if it says nothing of the kind.
output() {
  local outputs
  outputs=$(sam list stack-outputs "${stack[@]}" --output json) || die "no outputs of the stack" \
    'is it deployed, in the region of AWS_REGION?  make deploy'
  python3 -c '
import json, sys
outputs = {output["OutputKey"]: output["OutputValue"] for output in json.load(sys.stdin)}
print(outputs.get(sys.argv[1], ""))' "$1" <<<"$outputs"
}
