# How `make test` runs its parts: it runs all of them, even if some fail, and at the end says which failed. Source this
# file after lib.sh.
# shellcheck shell=bash

skipped=()
failed=()

# part NAME COMMAND...: runs a part of the tests, unless TEST_PARTS names others (separated by commas), and records
# which tests fail or are skipped.
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
    # In the formats of cargo test, nextest and unittest.
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

# Prints the last lines, and fails if something failed. In CI a skipped test is a failure.
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
