#!/usr/bin/env bash
# `make deploy`: builds the functions and deploys the stack of CONFIG in samconfig.toml. CloudFormation assumes the role
# ROLE_ARN, or else uses the caller's rights.
. "$(dirname "$0")/lib.sh"

check_prerequisites
ensure_cargo_lambda
ensure_zig
. scripts/stack.sh

# Separated by spaces, which no parameter value contains.
read -r -a given <<<"${PARAMETERS:-}"

# Before the build, which takes minutes, so that a problem is reported now.
file=$(mktemp -d)/parameters.yaml
trap 'rm -rf "$(dirname "$file")"' EXIT
listed=$(python3 scripts/parameters.py "$config" - "$file" ${given[@]+"${given[@]}"})
architecture=$(sed -n 's/^Architecture=//p' <<<"$listed")
check_target "$architecture"
deployed check "$file" ${given[@]+"${given[@]}"}

# CodeDeploy refuses to move an alias that is not where CloudFormation expects it, and CloudFormation would see no
# change in the release that was rolled back.
moved=$(deployed moved)
if [ -n "$moved" ]; then
  say "The alias was moved by hand (make rollback): this release goes live at once, without check and alarms."
  given+=(DeploymentByCodeDeploy=false)
  export NONCE=${NONCE:-after-$moved}
fi

sam build --parameter-overrides "Architecture=$architecture"
python3 scripts/parameters.py "$config" .aws-sam/build "$file" ${given[@]+"${given[@]}"} >/dev/null
deployed previous "$file"
# CloudFormation may leave resources behind, whether the deployment succeeds or not.
status=0
sam deploy "${stack[@]}" ${prefix[@]+"${prefix[@]}"} --no-confirm-changeset ${ROLE_ARN:+--role-arn "$ROLE_ARN"} \
  --parameter-overrides "file://$file" || status=$?
deployed left
[ "$status" = 0 ] || exit "$status"

say
say "Deployed. Try: curl -i $(deployed output ApiUrl)/users/1"
say "  make smoke${CONFIG:+ CONFIG=$CONFIG} sends it each kind of request."
