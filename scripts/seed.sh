#!/usr/bin/env bash
# `make seed`: users into the DynamoDB table TABLE, from USERS (a JSON file) or the three of the program.
. "$(dirname "$0")/lib.sh"

check_prerequisites
[ -n "${TABLE:-}" ] || die 'TABLE is not set; it names the table, as in: make seed TABLE=users' \
  'USERS=users.json names a JSON array of users, or a file with a user a line'
cargo run --quiet --locked --example seed -- "$TABLE" ${USERS:+"$USERS"}
