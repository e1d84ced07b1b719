#!/usr/bin/env bash
# `make destroy`: deletes the deployed stack, after a warning about the consequences.
. "$(dirname "$0")/lib.sh"
. scripts/stack.sh

say 'This deletes the API, the functions, the cache with everything in it, the network and the logs.'
say 'It takes long: the cache about ten minutes, the network interfaces of the functions up to forty,'
say 'and until then the network and its security groups cannot be deleted.'
deployed tables
say 'It keeps the bucket that SAM has put the programs into, which other stacks may share.'
printf 'Type "destroy" to go on: ' >&2
read -r answer || true
[ "${answer:-}" = destroy ] || die 'nothing was deleted'
status=0
sam delete "${stack[@]}" ${prefix[@]+"${prefix[@]}"} --no-prompts || status=$?
deployed left
exit "$status"
