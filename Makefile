# Works with make 3.81 too, which macOS ships. Recipes of more than one line are in scripts/.

.PHONY: help setup run docs check test servers soak fuzz bench lint semver build invoke purge sam-local deploy rollback cache-off cache-on prune seed smoke url outputs logs destroy clean
.DEFAULT_GOAL := help

help: ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## installs what `run` and `test` need (both also do it themselves)
	@scripts/setup.sh

run: ## serves the function on http://localhost:9000 (PORT), with a Redis (STORE=dynamodb: and a DynamoDB)
	@scripts/run.sh

docs: ## serves the API as a page on http://localhost:9080 (DOCS_PORT) that calls `make run` (PORT)
	@scripts/docs.sh

check: ## checks formatting, clippy and unit tests: the inner loop while you change something
	@scripts/check.sh

test: ## runs all tests, and names what this machine cannot test
	@scripts/test.sh

servers: ## runs the library's tests on other servers: Redis 6.2 and 8.2, Valkey 8.1 and 9.1 (x86-64 Linux)
	@scripts/other-servers.sh

soak: ## sends 20,000 invocations (SOAK_INVOCATIONS) while Redis fails in every way
	@SOAK_INVOCATIONS=$${SOAK_INVOCATIONS:-20000} scripts/test.sh soak

fuzz: ## tries 1,000,000 odd payloads and entries, then runs each fuzzer for FUZZ_SECONDS (60)
	@scripts/fuzz.sh

bench: ## compares a request with the floors and the alternatives (BENCH_PARTS, BENCH_ROUNDS)
	@scripts/bench.sh

lint: ## checks formatting, clippy, docs, prose, licences, unused dependencies, template, scripts
	@scripts/lint.sh

semver: ## checks the libraries' versions against the changes of their APIs (BASELINE: a tag, else crates.io)
	@scripts/semver.sh

build: ## builds the functions' zips for ARCHITECTURE (x86_64 or arm64)
	@scripts/build.sh

invoke: ## sends one event (EVENT, a file in events/) to a function (FUNCTION: users, invalidate) of `make run`
	@scripts/invoke.sh

purge: ## deletes every entry of NAMESPACE from the Redis of REDIS_URL
	@scripts/purge.sh

sam-local: ## serves the template on http://localhost:3000 (PORT), with Valkey, in containers
	@scripts/sam-local.sh

deploy: ## deploys the stack of CONFIG (default or prod, from samconfig.toml), with additional PARAMETERS
	@scripts/deploy.sh

rollback: ## moves all requests of CONFIG to the release before (or VERSION), in seconds
	@scripts/rollback.sh

cache-off: ## lets every request of CONFIG bypass the cache; builds nothing
	@scripts/cache-off.sh

cache-on: ## sends the requests through the cache again
	@scripts/cache-on.sh

prune: ## deletes the versions of CONFIG that get no requests, with their network interfaces
	@scripts/prune.sh

seed: ## writes users into the table TABLE, or that of CONFIG: the embedded three, or those in USERS (a JSON file)
	@scripts/seed.sh

smoke: ## sends the deployed API of CONFIG (or the one at URL) each kind of request
	@scripts/smoke.sh

url: ## prints the address of the deployed API of CONFIG
	@scripts/url.sh

outputs: ## prints the outputs of the stack of CONFIG as shell variables: eval "$$(make outputs)"
	@scripts/outputs.sh

logs: ## follows the logs of the deployed functions and API of CONFIG
	@scripts/logs.sh

destroy: ## deletes the stack of CONFIG, after a warning about the consequences
	@scripts/destroy.sh

clean: ## removes everything that was built or installed in this checkout
	rm -rf target .aws-sam .tools
