#!/usr/bin/env bash
# `make lint`: every check that runs nothing. Warnings are errors.
. "$(dirname "$0")/lib.sh"

check_prerequisites
check_pip

# The prose first, which takes a second: STYLE in scripts/style.py, then spelling.
python3 scripts/style.py
(ensure_typos && python3 scripts/style.py --list | xargs typos)

cargo fmt --check --all
for package in fuzz benches examples/axum-postgres; do
  cargo fmt --check --all --manifest-path "$package/Cargo.toml"
  cargo metadata --locked --format-version 1 --manifest-path "$package/Cargo.toml" >/dev/null
done
cargo clippy --workspace --locked --all-targets -- -D warnings
# Each feature of the library alone, and no feature: each must bring what it needs.
for features in '' memory redis tls cluster iam lambda; do
  cargo clippy --quiet --package response-boost --locked --no-default-features --features "$features" -- -D warnings
done
# With the examples, cargo reuses the dependencies that clippy has checked.
documented=(--workspace --locked --no-deps --quiet --lib --bins --examples)
RUSTDOCFLAGS='-D warnings' cargo doc "${documented[@]}" --document-private-items
# The library's API names no type of a crate that its users do not have anyway. With this variable, a stable rustdoc too
# writes what it knows as JSON.
mkdir -p "$tools/bin"
# shellcheck disable=SC2016
printf '#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc "$@"\n' >"$tools/bin/rustdoc-unstable"
chmod +x "$tools/bin/rustdoc-unstable"
RUSTDOC=$tools/bin/rustdoc-unstable RUSTDOCFLAGS='-Z unstable-options --output-format json' \
  cargo doc "${documented[@]}"
# A user's type implements serde's two traits in order to become JSON (ValueCache).
python3 scripts/public_types.py target/doc/response_boost.json bytes http http_body serde_core tower_layer tower_service

ensure_cargo_tool cargo-shear 1.14.0
for package in . fuzz benches examples/axum-postgres; do
  cargo shear --locked "$package"
done
ensure_cargo_tool cargo-deny 0.20.2
cargo deny --locked check bans licenses sources
if cargo deny fetch db >/dev/null 2>&1; then
  cargo deny --locked check advisories
else
  say 'SKIPPED: known vulnerabilities (the advisory database is out of reach)'
fi

(
  ensure_sam
  sam validate --region us-east-1
  sam validate --lint --region us-east-1
  cfn-lint dashboard.yaml .github/deploy-role.yaml
  ensure_checkov
  checkov --quiet --compact --skip-download --framework cloudformation -f template.yaml -f dashboard.yaml \
    -f .github/deploy-role.yaml
  # And what is made of it, with the conditions decided. That a stage has no access log (95) is a choice, AccessLog=false.
  ensure_template_tools
  choices=$(mktemp -d)
  trap 'rm -r "$choices"' EXIT
  PYTHONPATH=$tools/template python3 tests/template/choices.py "$choices"
  checkov --quiet --compact --skip-download --framework cloudformation --skip-check CKV_AWS_95 -d "$choices"
)
if (ensure_zizmor); then
  (ensure_zizmor && zizmor --offline --quiet .github)
else
  say 'SKIPPED: the security of the workflows (zizmor cannot be installed here)'
fi
if (ensure_actionlint) >/dev/null 2>&1; then
  (ensure_actionlint && actionlint .github/workflows/*.yml)
else
  say 'SKIPPED: the form of the workflows (actionlint cannot be installed here)'
fi
if has shellcheck; then
  shellcheck --external-sources --source-path=SCRIPTDIR scripts/*.sh .ci/run .ci/engine.sh
else
  say 'SKIPPED: shellcheck (not installed)'
fi
