#!/usr/bin/env bash
# `make invoke`: sends one event to the function (users, or invalidate) that `make run` has started.
. "$(dirname "$0")/lib.sh"

event=${EVENT:-events/http-existing.json}
[ -f "$event" ] || die "no file $event" "take one of: $(printf '%s ' events/*.json)"
ensure_cargo_lambda
cargo lambda invoke "${FUNCTION:-users}" --invoke-address 127.0.0.1 --invoke-port "${PORT:-9000}" --data-file "$event"
