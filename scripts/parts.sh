# How `make test` runs its parts: all of them, whatever becomes of each, and says at the end what failed.
# To be sourced, after lib.sh.
# shellcheck shell=bash

skipped=()
failed=()

# part NAME COMMAND...: runs a part of the tests, unless TEST_PARTS names others (separated by commas), and
# remembers what has failed in it and what it has skipped.
part() {
  local name=$1 line output; shift
  case ,${TEST_PARTS:-$name}, in
    *",$name,"*) ;;
    *) skipped+=("$name (it is not among TEST_PARTS)"); return ;;
  esac
  output=$(mktemp)
  say
  say "== $name"
  if ! "$@" 2>&1 | tee "$output"; then
    failed+=("$name")
    # As cargo test, nextest and unittest say it.
    while read -r line; do
      failed+=("  $line")
    done < <(sed -nE -e '/^(test .* FAILED|(FAIL|ERROR): .*)$/p' \
      -e 's/^ *(FAIL|ABORT|SIG[A-Z]+|TIMEOUT|LEAK-FAIL) \[[^]]*\] (\( *[0-9]+\/[0-9]+\) )?/\1: /p' "$output" | sort -u)
  fi
  while read -r line; do
    skipped+=("$line")
  done < <(sed -nE "s/.* \.\.\. skipped ['\"](.*)['\"]$/\1/p" "$output" | sort -u)
  rm -f "$output"
}

# The last lines, and whether all is well. In CI what is skipped is a failure.
end_of_parts() {
  local what
  say
  for what in ${skipped[@]+"${skipped[@]}"}; do
    say "SKIPPED: $what"
  done
  for what in ${failed[@]+"${failed[@]}"}; do
    say "FAILED: $what"
  done
  [ ${#failed[@]} -eq 0 ] || exit 1
  [ -z "${CI:-}" ] || [ ${#skipped[@]} -eq 0 ] || die 'CI must not skip anything'
  say 'Everything that can be tested here has passed.'
}
