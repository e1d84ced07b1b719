#!/usr/bin/env bash
# Provides a container engine for `make sam-local`, and images if no container registry is reachable.
#
# It does nothing if an engine responds and has the images or can pull them. Otherwise, as root on Debian, it installs
# and starts Docker, and builds stand-ins for the images from this machine's own C library and programs. With the
# stand-ins `make sam-local` tests the template, the routes, the events and the network. It does not test that the
# program runs with Amazon Linux's C library; tests/e2e/test_build.py checks that.
set -euo pipefail

valkey=valkey/valkey:8-alpine
base=public.ecr.aws/lambda/provided:al2023-$(uname -m | sed 's/aarch64/arm64/')

install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }

engine_answers() { docker info >/dev/null 2>&1; }

start_engine() {
  engine_answers && return
  command -v dockerd >/dev/null || { apt-get update -qq && install docker.io iptables; }
  setsid dockerd >/var/log/dockerd.log 2>&1 &
  for _ in $(seq 120); do
    engine_answers && return
    sleep 0.5
  done
  tail -n 20 /var/log/dockerd.log >&2
  echo 'error: dockerd does not answer; its log is above' >&2
  return 1
}

# is_here IMAGE: whether the engine has the image, or can pull it from its registry.
is_here() { docker image inspect "$1" >/dev/null 2>&1 || timeout 120 docker pull --quiet "$1" >/dev/null 2>&1; }

# root_folder FOLDER PROGRAM...: creates a root file system with a shell, the programs and the libraries they load.
root_folder() {
  local folder=$1 program library; shift
  command -v busybox >/dev/null || { apt-get update -qq && install busybox-static; }
  mkdir -p "$folder"/{bin,etc,tmp,root,data,opt,lib64,var/task,var/runtime,var/rapid}
  chmod 1777 "$folder/tmp"
  echo 'root:x:0:0:root:/root:/bin/sh' >"$folder/etc/passwd"
  cp "$(command -v busybox)" "$folder/bin/busybox"
  for program in sh ls cat env mkdir mv cp chmod echo id sleep; do
    ln -sf busybox "$folder/bin/$program"
  done
  # The libraries that a Rust program loads, and those that resolve names.
  ldconfig -p | awk '$1 ~ /^(lib(c|dl|gcc_s|m|nss_dns|nss_files|pthread|resolv|rt)\.so|ld-linux)/ { print $NF }' |
    while read -r library; do copy_library "$folder" "$library"; done
  # The dynamic loader, at the path that programs name.
  for library in /lib64/ld-linux-* /lib/ld-linux-*; do
    [ ! -e "$library" ] || copy_library "$folder" "$library"
  done
  for program in "$@"; do
    cp -L "$program" "$folder/bin/"
    ldd "$program" | grep -o '/[^ ]*' | while read -r library; do copy_library "$folder" "$library"; done
  done
}

# copy_library FOLDER LIBRARY: copies a library to the same path below the folder.
copy_library() {
  mkdir -p "$1$(dirname "$2")"
  cp -Ln "$2" "$1$2"
}

stand_in_for_base() {
  local folder; folder=$(mktemp -d)
  root_folder "$folder"
  tar -C "$folder" -c . | docker import \
    -c 'ENV PATH=/bin LANG=en_US.UTF-8 LAMBDA_TASK_ROOT=/var/task LAMBDA_RUNTIME_DIR=/var/runtime' \
    -c 'WORKDIR /var/task' - "$base" >/dev/null
  rm -rf "$folder"
}

stand_in_for_valkey() {
  local folder; folder=$(mktemp -d)
  command -v redis-server >/dev/null || { apt-get update -qq && install redis-server; }
  root_folder "$folder" "$(command -v redis-server)" "$(command -v redis-cli)"
  ln -s redis-server "$folder/bin/valkey-server"
  ln -s redis-cli "$folder/bin/valkey-cli"
  tar -C "$folder" -c . | docker import -c 'ENV PATH=/bin' -c 'WORKDIR /data' -c 'EXPOSE 6379' \
    -c 'CMD ["valkey-server"]' - "$valkey" >/dev/null
  rm -rf "$folder"
}

start_engine
docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null ||
  { apt-get update -qq && install docker-compose; }
if is_here "$base"; then echo "image $base"; else stand_in_for_base; echo "image $base (stand-in)"; fi
if is_here "$valkey"; then echo "image $valkey"; else stand_in_for_valkey; echo "image $valkey (stand-in)"; fi
