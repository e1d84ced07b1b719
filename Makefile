# Written for make 3.81 too, which macOS has. What is more than a line is in scripts/.

.PHONY: help setup run docs check test servers soak fuzz bench lint semver build invoke purge sam-local deploy rollback cache-off cache-on prune seed smoke url outputs logs destroy clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what `run` and `test` need (they do it themselves, too)
	@scripts/setup.sh

run: ## the function on http://localhost:9000 (PORT), with a Redis (STORE=dynamodb: and a DynamoDB)
	@scripts/run.sh

docs: ## the API as a page on http://localhost:9080 (DOCS_PORT), whose requests go to `make run` (PORT)
	@scripts/docs.sh

check: ## formatting, clippy and unit tests: the inner loop while you change something
	@scripts/check.sh

test: ## all tests; names what cannot be tested here
	@scripts/test.sh

servers: ## the library's tests on other servers: Redis 6.2 and 8.2, Valkey 8.1 and 9.1 (x86-64 Linux)
	@scripts/other-servers.sh

soak: ## 20,000 invocations (SOAK_INVOCATIONS) while Redis has every kind of trouble
	@SOAK_INVOCATIONS=$${SOAK_INVOCATIONS:-20000} scripts/test.sh soak

fuzz: ## 1,000,000 odd payloads and entries, then the fuzzer for FUZZ_SECONDS (60) each
	@scripts/fuzz.sh

bench: ## what it costs, beside the floors and the alternatives (BENCH_PARTS, BENCH_ROUNDS)
	@scripts/bench.sh

lint: ## formatting, clippy, docs, licences, unused dependencies, template, scripts
	@scripts/lint.sh

semver: ## whether the libraries' versions fit the changes of their APIs (BASELINE: a tag, else crates.io)
	@scripts/semver.sh

build: ## the function as Lambda takes it, for ARCHITECTURE (x86_64 or arm64)
	@scripts/build.sh

invoke: ## one event (EVENT, of events/) to what `make run` started (FUNCTION: users, invalidate)
	@scripts/invoke.sh

purge: ## removes all that the Redis of REDIS_URL keeps in NAMESPACE
	@scripts/purge.sh

sam-local: ## the template on http://localhost:3000 (PORT), with Valkey, in containers
	@scripts/sam-local.sh

deploy: ## the stack of CONFIG (default or prod, of samconfig.toml), with more PARAMETERS
	@scripts/deploy.sh

rollback: ## all requests of CONFIG to the version before (or VERSION), in seconds
	@scripts/rollback.sh

cache-off: ## every request of CONFIG past the cache, to the store; builds nothing
	@scripts/cache-off.sh

cache-on: ## through the cache again
	@scripts/cache-on.sh

prune: ## deletes the versions of CONFIG that get no requests, with their network interfaces
	@scripts/prune.sh

seed: ## users into the table TABLE, or that of CONFIG: the three, or those of USERS (a JSON file)
	@scripts/seed.sh

smoke: ## asks the deployed API of CONFIG (or the one at URL) all that it should answer
	@scripts/smoke.sh

url: ## where the deployed API of CONFIG is
	@scripts/url.sh

outputs: ## the names of what CONFIG has deployed, for a shell: eval "$$(make outputs)"
	@scripts/outputs.sh

logs: ## what the deployed functions and API of CONFIG log, as it comes
	@scripts/logs.sh

destroy: ## deletes the stack of CONFIG, and says first what that means
	@scripts/destroy.sh

clean: ## remove all that was built or installed in this checkout
	rm -rf target .aws-sam .tools
