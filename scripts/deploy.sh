#!/usr/bin/env bash
# `make deploy`: builds the functions and deploys the stack of CONFIG in samconfig.toml.
. "$(dirname "$0")/lib.sh"

check_prerequisites
ensure_cargo_lambda
ensure_zig
. scripts/stack.sh

# Separated by spaces; no value of a parameter has one in it.
read -r -a given <<<"${PARAMETERS:-}"

# Before the build, which takes minutes: what cannot be is said now.
listed=$(python3 scripts/parameters.py "$config" - ${given[@]+"${given[@]}"})
architecture=$(sed -n 's/^Architecture=//p' <<<"$listed")
architecture=${architecture:-arm64}
check_target "$architecture"

sam build --parameter-overrides "Architecture=$architecture"
parameters=()
listed=$(python3 scripts/parameters.py "$config" .aws-sam/build ${given[@]+"${given[@]}"})
while read -r parameter; do parameters+=("$parameter"); done <<<"$listed"
sam deploy "${stack[@]}" --no-confirm-changeset --parameter-overrides "${parameters[@]}"

say
say "Deployed. Try: curl -i $(output ApiUrl)/users/1"
say "  make smoke${CONFIG:+ CONFIG=$CONFIG} asks it all that it should answer."
