#!/usr/bin/env bash
# `make destroy`: deletes the deployed stack, and says first what that means.
. "$(dirname "$0")/lib.sh"
. scripts/stack.sh

table=$(output UsersTable)
say 'This deletes the API, the functions, the cache with all that it keeps, the network and the logs.'
say 'It takes long: the cache about ten minutes, the network interfaces of the functions up to forty,'
say 'and until then the network and its security groups cannot go.'
if [ -n "$table" ]; then
  say "It keeps the table $table with all users, which costs its storage. To delete that, too:"
  say '  turn off its deletion protection, then delete it in the DynamoDB console'
fi
say 'It keeps the bucket that SAM has put the programs into, which other stacks may share.'
printf 'Type "destroy" to go on: ' >&2
read -r answer || true
[ "${answer:-}" = destroy ] || die 'nothing was deleted'
sam delete "${stack[@]}" --no-prompts
