#!/usr/bin/env bash
# `make run`: the function under `cargo lambda watch`, with a Redis. It leaves nothing running.
. "$(dirname "$0")/lib.sh"

port=${PORT:-9000}

check_prerequisites
check_port PORT "$port" 'make run PORT=9001'
port_is_free "$port" || die "port $port on 127.0.0.1 is in use" \
  'take another: make run PORT=9001' \
  "see who has it: lsof -i :$port"
case ${STORE:-embedded} in
  embedded | dynamodb) ;;
  *) die "STORE is $STORE; accepted: embedded or dynamodb, as in: make run STORE=dynamodb" ;;
esac
ensure_cargo_lambda

watch_pid=
redis_pid=
dynamodb_pid=
# An empty folder, so that the server loads no other data; removed with the server.
redis_folder=$(mktemp -d)
clean_up() {
  trap - EXIT INT TERM HUP
  [ -z "$watch_pid" ] || stop "$watch_pid"
  [ -z "$redis_pid" ] || stop "$redis_pid"
  [ -z "$dynamodb_pid" ] || stop "$dynamodb_pid"
  wait
  rm -rf "$redis_folder"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ -n "${REDIS_URL:-}" ]; then
  say 'Redis: the one in REDIS_URL'
else
  redis_server=$(installed_server)
  [ -n "$redis_server" ] || { ensure_embedded_server && redis_server=$embedded_server; } || true
  if [ -n "$redis_server" ]; then
    # The default port, so that a plain `redis-cli` finds it; another one if that is taken.
    redis_port=6379
    port_is_free "$redis_port" || redis_port=$(free_port)
    "$redis_server" --port "$redis_port" --bind 127.0.0.1 --save '' --appendonly no \
      --dir "$redis_folder" >"$redis_folder/log" 2>&1 &
    redis_pid=$!
    wait_for_port "$redis_port" "$redis_pid" ||
      die "$redis_server did not start; it said:" "$(tail -n 5 "$redis_folder/log")"
    export REDIS_URL=redis://127.0.0.1:$redis_port
    say "Redis: $redis_server on 127.0.0.1:$redis_port"
    # An installed server comes with `redis-cli`; the one from PyPI does not.
    redis_cli=${redis_server%server}cli
    [ -x "$redis_cli" ] || redis_cli=scripts/redis-cli
    say "  look inside: $redis_cli -p $redis_port KEYS '*'"
  else
    say 'Redis: none here, so the process stores its own responses. To install one:'
    say '  Debian, Ubuntu: sudo apt-get install redis-server'
    say '  macOS:          brew install valkey'
  fi
fi

if [ "${STORE:-embedded}" = dynamodb ]; then
  cargo build --example dynamodb_local --example seed
  # The default port; another one if that is taken.
  dynamodb_port=8000
  port_is_free "$dynamodb_port" || dynamodb_port=$(free_port)
  cargo run --quiet --example dynamodb_local -- "$dynamodb_port" &
  dynamodb_pid=$!
  wait_for_port "$dynamodb_port" "$dynamodb_pid" || die 'the local DynamoDB did not start'
  # It accepts any credentials, and must not get real ones.
  export AWS_ENDPOINT_URL_DYNAMODB=http://127.0.0.1:$dynamodb_port AWS_REGION=local \
    AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local
  unset AWS_PROFILE AWS_SESSION_TOKEN
  export USERS_TABLE=users
  cargo run --quiet --example seed -- --create "$USERS_TABLE" ${USERS:+"$USERS"}
  say "DynamoDB: $AWS_ENDPOINT_URL_DYNAMODB, table $USERS_TABLE"
fi

# Build before the watch, which would otherwise compile while the first request waits.
cargo build --bin users
cargo lambda watch --invoke-address 127.0.0.1 --invoke-port "$port" --disable-cors &
watch_pid=$!
wait_for_port "$port" "$watch_pid" || die 'cargo lambda watch did not start'
say
say "Ready. Try: curl -i http://localhost:$port/users/1"
say 'A changed source is rebuilt and served at once. Ctrl-C ends everything.'
wait "$watch_pid"
