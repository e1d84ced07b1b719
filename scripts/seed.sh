#!/usr/bin/env bash
# `make seed`: users into the DynamoDB table TABLE, or into the one of the stack of CONFIG, from USERS (a
# JSON file) or the three of the program.
. "$(dirname "$0")/lib.sh"

check_prerequisites
table=${TABLE:-}
if [ -z "$table" ] && [ -n "${CONFIG:-}" ]; then
  . scripts/stack.sh
  table=$(output UsersTable)
  [ -n "$table" ] || die "the stack of CONFIG=$CONFIG has no table" \
    'it has one with UserStore=dynamodb, as in: make deploy CONFIG=prod'
fi
[ -n "$table" ] || die 'TABLE is not set; it names the table, as in: make seed TABLE=users' \
  'CONFIG=prod takes the one that make deploy CONFIG=prod has made' \
  'USERS=users.json names a JSON array of users, or a file with a user a line'
cargo run --quiet --locked --example seed -- "$table" ${USERS:+"$USERS"}
