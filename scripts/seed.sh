#!/usr/bin/env bash
# `make seed`: writes users into the DynamoDB table TABLE, or into the table of the stack of CONFIG, from USERS (a JSON
# file) or the three embedded ones.
. "$(dirname "$0")/lib.sh"

check_prerequisites
table=${TABLE:-}
if [ -z "$table" ] && [ -n "${CONFIG:-}" ]; then
  . scripts/stack.sh
  table=$(deployed output UsersTable)
  [ -n "$table" ] || die "the stack of CONFIG=$CONFIG has no table" \
    'it has one with UserStore=dynamodb, as in: make deploy CONFIG=prod'
fi
[ -n "$table" ] || die 'TABLE is not set; it names the table, as in: make seed TABLE=users' \
  'CONFIG=prod takes the one that make deploy CONFIG=prod has made' \
  'USERS=users.json names a JSON array of users, or a file with a user a line'
# The program's SDK supports fewer kinds of profiles than other AWS tools: no SSO, no login, no `credential_process`. So
# those tools look up the credentials.
if [ -z "${AWS_ACCESS_KEY_ID:-}" ]; then
  . scripts/stack.sh
  found=$(deployed credentials)
  eval "$found"
fi
cargo run --quiet --locked --example seed -- "$table" ${USERS:+"$USERS"}
