#!/usr/bin/env bash
# Runs a command with a moto DynamoDB at TEST_MOTO, which has the users in the table `people`.
. "$(dirname "$0")/lib.sh"

port=$(free_port)
PYTHONPATH=$tools/moto python3 -m moto.server -H 127.0.0.1 -p "$port" >/dev/null 2>&1 &
moto=$!
trap 'stop "$moto"' EXIT
wait_for_port "$port" "$moto" || die 'moto did not start'

export TEST_MOTO=http://127.0.0.1:$port
AWS_ENDPOINT_URL_DYNAMODB=$TEST_MOTO AWS_REGION=eu-west-1 AWS_ACCESS_KEY_ID=test \
  AWS_SECRET_ACCESS_KEY=test cargo run --quiet --locked --example seed -- --create people
"$@"
