#!/usr/bin/env bash
# `make fuzz`: looks for an event or an entry that breaks the function, for FUZZ_SECONDS each.
. "$(dirname "$0")/lib.sh"

seconds=${FUZZ_SECONDS:-60}

check_prerequisites
case $seconds in
  '' | *[!0-9]*) die "FUZZ_SECONDS is $seconds; accepted: a whole number, as in: make fuzz FUZZ_SECONDS=600" ;;
esac
cargo +nightly --version >/dev/null 2>&1 || die 'no nightly toolchain, which the fuzzer needs' \
  'rustup toolchain install nightly'
ensure_cargo_tool cargo-fuzz 0.13.2

export CARGO_TARGET_DIR=$PWD/target/fuzz

# The tests generate these cases from a model of valid events.
export PROPTEST_CASES=1000000
say "$PROPTEST_CASES payloads, in this process and to the real function, odd events beside lambda_http, and as many entries"
cargo test --locked --release --config profile.release.lto=false \
  --config profile.release.codegen-units=16 --workspace --lib --test suite -- any_ whatever_

# The fuzzer finds these by code coverage. New inputs of this run stay outside of the repository's corpus; a person adds
# the useful ones.
for target in event entry; do
  found=$CARGO_TARGET_DIR/corpus/$target
  mkdir -p "$found"
  say "the $target, for $seconds seconds"
  cargo +nightly fuzz run "$target" "$found" "fuzz/corpus/$target" -- \
    -max_total_time="$seconds" -max_len=65536 -timeout=10 -print_final_stats=1
done
