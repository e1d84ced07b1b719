#!/usr/bin/env bash
# `make docs`: serves openapi.yaml as a page whose requests go to the function of `make run`.
. "$(dirname "$0")/lib.sh"

port=${DOCS_PORT:-9080}
function_port=${PORT:-9000}

has python3 || die 'no python3 on the PATH' \
  'Debian, Ubuntu: sudo apt-get install python3'
check_port DOCS_PORT "$port" 'make docs DOCS_PORT=9081'
check_port PORT "$function_port" 'make docs PORT=9001'
port_is_free "$port" || die "port $port on 127.0.0.1 is in use" \
  'take another: make docs DOCS_PORT=9081' \
  "see who has it: lsof -i :$port"
ensure_swagger_ui || die 'npm cannot install Swagger UI' \
  'Debian, Ubuntu: sudo apt-get install npm' \
  'macOS:          brew install node'

server_pid=
clean_up() {
  trap - EXIT INT TERM HUP
  [ -z "$server_pid" ] || stop "$server_pid"
  wait
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

python3 scripts/docs/server.py "$port" "$function_port" "$swagger_ui" &
server_pid=$!
wait_for_port "$port" "$server_pid" || die 'the page cannot be served'
if port_is_free "$function_port"; then
  say "No function answers on port $function_port yet. Start it in another terminal: make run"
fi
say "Ready. Open: http://localhost:$port/"
say 'Ctrl-C ends it.'
wait "$server_pid"
