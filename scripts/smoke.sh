#!/usr/bin/env bash
# `make smoke`: sends the deployed API (or the one at URL) each kind of request.
. "$(dirname "$0")/lib.sh"

url=${URL:-}
authorization=${AUTHORIZATION:-}
if [ -z "$url" ]; then
  . scripts/stack.sh
  url=$(deployed output ApiUrl)
  authorization=$(deployed output ApiAuthorization)
fi
if [ "$authorization" = AWS_IAM ]; then
  ensure_botocore
fi
PYTHONPATH=$tools/botocore python3 scripts/smoke.py "$url" "${authorization:-NONE}" "${ID:-1}"
