#!/usr/bin/env bash
# `make bench`: measures what the function costs, compared to the floors and the alternatives. BENCH_PARTS selects parts
# (compare, counts, memory, scale, faults, refresh, library, compile, micro), BENCH_ROUNDS sets how often each process is started, and
# BENCH_RECORD=1 records the counts in benches/counts.json.
. "$(dirname "$0")/lib.sh"

parts=${BENCH_PARTS:-compare,counts,memory,scale,faults,refresh,library,compile,micro}

[ "$(uname -s)" = Linux ] || die 'the figures come from /proc and control groups: Linux only'
check_prerequisites
ensure_test_server

# One target folder, so that shared dependencies are built once.
export CARGO_TARGET_DIR=$PWD/target
cargo build --release --locked --bin users
cargo build --release --locked --bins --manifest-path benches/Cargo.toml
case ,$parts, in
  *,library,*) cargo build --release --locked --bins --manifest-path benches/micro/Cargo.toml ;;
esac

python=$tools/bench-python
[ -d "$python/mangum" ] || pip_install "$python" 'aiocache[redis]==0.12.3' 'awslambdaric==4.2.2' \
  'fastapi==0.165.0' 'mangum==0.22.0' 'redis==8.1.0' ||
  say 'the Python alternatives are left out: their packages cannot be installed here'
[ -d "$python/mangum" ] || python=

case ,$parts, in
  *,micro,*)
    cargo run --release --locked --manifest-path benches/micro/Cargo.toml
    parts=$(printf %s "$parts" | tr , '\n' | grep -vx micro | paste -sd , - || true)
    ;;
esac
[ -z "$parts" ] ||
  BENCH_PARTS=$parts target/release/bench target/release target/bench ${python:+"$python"}
