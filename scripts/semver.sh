#!/usr/bin/env bash
# `make semver`: checks whether the versions of the libraries match the API changes since their last release.
. "$(dirname "$0")/lib.sh"

check_prerequisites
# published PACKAGE: whether crates.io has a version to compare with. Cargo asks the registry of its configuration.
published() { cargo info --quiet --registry crates-io "$1" >/dev/null 2>&1; }

for package in kept-timers lambda-gateway response-boost; do
  baseline=()
  if [ -n "${BASELINE:-}" ]; then
    baseline=(--baseline-rev "$BASELINE")
  elif ! published "$package"; then
    say "SKIPPED: the API of $package (no version of it is published; BASELINE=v0.2.0 compares with a tag)"
    continue
  fi
  # All features together, so that none of their APIs is left out.
  ensure_cargo_tool cargo-semver-checks 0.51.0
  cargo semver-checks --package "$package" --all-features ${baseline[@]+"${baseline[@]}"}
done
