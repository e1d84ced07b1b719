#!/usr/bin/env bash
# `make sam-local`: the template in containers, with a Valkey beside it, behind a local gateway.
. "$(dirname "$0")/lib.sh"

port=${PORT:-3000}
authorization=${AUTHORIZATION:-NONE}

check_prerequisites
docker info >/dev/null 2>&1 || die 'no container engine answers to docker' \
  'see https://docs.docker.com/engine/install'
if docker compose version >/dev/null 2>&1; then
  compose() { docker compose "$@"; }
elif has docker-compose; then
  compose() { docker-compose "$@"; }
else
  die 'no docker compose' 'see https://docs.docker.com/compose/install'
fi
case $authorization in
  NONE | AWS_IAM) ;;
  *) die "AUTHORIZATION is $authorization; accepted: NONE or AWS_IAM (sam local cannot check a JWT)" ;;
esac
port_is_free "$port" || die "port $port on 127.0.0.1 is in use" \
  'take another: make sam-local PORT=3001'
ensure_cargo_lambda
ensure_zig
ensure_sam

architecture=$(uname -m | sed 's/aarch64/arm64/')
parameters=("Architecture=$architecture" CacheMode=existing RedisUrl=redis://valkey:6379 \
  "ApiAuthorization=$authorization")

# Do not pull an image at each start that is already here.
base=public.ecr.aws/lambda/provided:al2023-$architecture
pull=()
! docker image inspect "$base" >/dev/null 2>&1 || pull=(--skip-pull-image)

gateway_pid=
clean_up() {
  trap - EXIT INT TERM HUP
  # SAM removes its containers on an interrupt, so wait for it, and send only one: a second interrupt aborts the
  # removal.
  [ -z "$gateway_pid" ] || { kill -INT "$gateway_pid" 2>/dev/null; wait "$gateway_pid" || true; }
  docker ps --all --quiet --filter network=response-boost --filter volume=/var/task |
    while read -r left; do docker rm --force "$left" >/dev/null; done
  compose down --remove-orphans >/dev/null 2>&1 || true
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

sam build --parameter-overrides "${parameters[@]}"
compose up --detach valkey
# In a separate session, so that Ctrl-C does not reach it, and with SIGINT restored, which bash ignores for background
# processes.
python3 -c 'import os, signal, sys
os.setsid()
signal.signal(signal.SIGINT, signal.default_int_handler)
os.execvp(sys.argv[1], sys.argv[1:])' \
  sam local start-api --host 127.0.0.1 --port "$port" --docker-network response-boost \
  --warm-containers EAGER --parameter-overrides "${parameters[@]}" ${pull[@]+"${pull[@]}"} &
gateway_pid=$!
wait_for_port "$port" "$gateway_pid" || die 'sam local start-api did not start'
say
say "Ready. Try: curl -i http://localhost:$port/users/1"
say "  look inside: docker exec \$(docker ps -qf name=valkey) valkey-cli KEYS '*'"
wait "$gateway_pid"
