#!/usr/bin/env python3
"""The monthly cost of the template, with and without its cache: the tables of docs/costs.md.

    scripts/costs.py                                         # as in the document
    scripts/costs.py requests_per_second=50 hit_ratio=0.6    # other parameters
    scripts/costs.py dynamodb_million_reads=0.15             # other prices, say of your region
"""

import difflib
import math
import sys
from types import SimpleNamespace
from typing import NamedTuple

HOURS = 730
SECONDS = HOURS * 3600
DAYS = HOURS / 24
# AWS meters some of it in units of 2^30 bytes, which makes it up to 7 % cheaper.
GB = 1e9
MILLION = 1e6
VALKEY_LEAST_GB = 0.1
# Lambda's own sampling, which is fixed: the first request of each second, and 5 % of the others.
TRACED_EACH_SECOND = 1
TRACED_OF_OTHERS = 0.05
# Where the search for a break-even stops, in requests per second.
MOST_REQUESTS = 100_000


class Price(NamedTuple):
    usd: float
    unit: str
    source: str
    date: str
    # Volume discounts: up to how many units per month, and the USD for each of these.
    tiers: tuple = ()

    def of(self, quantity):
        """USD for a quantity per month."""
        cost, below = 0.0, 0.0
        for end, usd in self.tiers or ((math.inf, self.usd),):
            cost += max(0.0, min(quantity, end) - below) * usd
            below = end
        return cost


class Parameter(NamedTuple):
    value: float
    least: float
    most: float
    meaning: str


API_GATEWAY = "[API Gateway pricing](https://aws.amazon.com/api-gateway/pricing/), its example"
LAMBDA = "[Lambda pricing](https://aws.amazon.com/lambda/pricing/)"
DYNAMODB = ("[AWS's own calculator](https://github.com/aws/agent-toolkit-for-aws/blob/main/skills/"
            "specialized-skills/database-skills/amazon-dynamodb/scripts/calculate_costs.py)")
VALKEY = ("[Usage.ai](https://www.usage.ai/blogs/aws/database-savings-plans/elasticache/"
          "serverless-pricing/), second-hand")
LOGS = "[C3X](https://c3x.dev/blog/cloudwatch-logs-cost-optimization), second-hand"
TRANSFER = "[Usage.ai](https://www.usage.ai/blogs/aws/networking-cost/data-transfer-costs/), second-hand"

# In USD, for us-east-1, without free tiers.
PRICES = {
    "http_api_million": Price(1.00, "million requests", API_GATEWAY, "2026-09",
                              ((300, 1.00), (math.inf, 0.90))),
    "lambda_million": Price(0.20, "million invocations", LAMBDA, "2026-09"),
    "lambda_gb_second": Price(
        0.0000133334, "GB-second, arm64",
        "[Artillery 2.0.28](https://unpkg.com/artillery@2.0.28/lib/platform/aws-lambda/prices.js), "
        "second-hand", "undated"),
    "valkey_gb_hour": Price(0.084, "GB-hour", VALKEY, "2026-06"),
    "valkey_million_ecpus": Price(0.0023, "million ECPUs", VALKEY, "2026-06"),
    "zone_crossing_gb": Price(0.02, "GB between zones, both directions", TRANSFER, "2026-06"),
    "dynamodb_million_reads": Price(0.125, "million read request units", DYNAMODB, "2026-08"),
    "dynamodb_million_writes": Price(0.625, "million write request units", DYNAMODB, "2026-08"),
    "dynamodb_gb": Price(0.25, "GB-month of the table", DYNAMODB, "2026-08"),
    "dynamodb_recovery_gb": Price(
        0.20, "GB-month of point-in-time recovery", "copies of AWS's page, second-hand", "undated"),
    "lambda_log_gb": Price(
        0.50, "GB of function logs",
        "[Duckbill](https://www.duckbillgroup.com/?p=9080), second-hand", "2025-05",
        ((10_000, 0.50), (30_000, 0.25), (50_000, 0.10), (math.inf, 0.05))),
    "log_gb": Price(0.50, "GB of other logs", LOGS, "2026-06"),
    "kept_log_gb": Price(0.03, "GB-month of kept logs, compressed", LOGS, "2026-06"),
    "metric": Price(
        0.30, "custom metric", "[SigNoz](https://signoz.io/guides/cloudwatch-pricing), second-hand",
        "2026-02"),
    "alarm": Price(
        0.10, "alarm", "[C3X](https://c3x.dev/resources/aws/aws_cloudwatch_metric_alarm), second-hand",
        "undated"),
    "dashboard": Price(
        3.00, "dashboard after the third of an account",
        "[FactualMinds](https://www.factualminds.com/blog/"
        "amazon-cloudwatch-pricing-metrics-logs-alarms-dashboards/), second-hand", "2026-06"),
    "million_traces": Price(
        5.00, "million traces", "[X-Ray pricing](https://aws.amazon.com/xray/pricing/)", "undated copy"),
    "transfer_gb": Price(0.09, "GB out to the internet", TRANSFER, "2026-06",
                         ((10_000, 0.09), (50_000, 0.085), (150_000, 0.07), (math.inf, 0.05))),
}

LOADS = "requests_per_second"
PARAMETERS = {
    LOADS: Parameter((0, 1, 10, 100, 1000), 0, MOST_REQUESTS,
                     "mean over the month; several with commas between them"),
    "hit_ratio": Parameter(0.9, 0, 1, "with the cache: requests answered from it"),
    "memory_hit_ratio": Parameter(
        0, 0, 1, "without it: requests answered by the in-process store (0: DynamoDB alone)"),
    "change_ratio": Parameter(0.01, 0, math.inf, "changed users for each request"),
    "changes_per_invocation": Parameter(
        1, 1, 10_000, "of `invalidate`; more when changes come close together"),
    "own_ms": Parameter(1, 0, math.inf, "what the function takes for itself"),
    "redis_ms": Parameter(1, 0, math.inf, "a round trip to Valkey: one on a hit, three on a miss"),
    "store_ms": Parameter(7, 0, math.inf, "a load from the store"),
    "memory_mb": Parameter(256, 128, 10_240, "of each function"),
    "read_units": Parameter(1, 0, math.inf,
                            "read request units of a load: 1 for each 4 KB, half if eventually consistent"),
    "write_units": Parameter(1, 0, math.inf, "write request units of a change: 1 for each KB"),
    "table_gb": Parameter(1, 0, math.inf, "the table, kept and recoverable"),
    "cached_gb": Parameter(0.05, 0, math.inf, "what Valkey holds; 0.1 is billed at least"),
    "entry_bytes": Parameter(500, 0, math.inf, "an entry on its way to or from Valkey"),
    "script_ecpus": Parameter(5, 1, math.inf, "ECPUs of the script that fills an entry"),
    "zone_crossing_ratio": Parameter(0.5, 0, 1, "entries that cross zones"),
    "log_line_bytes": Parameter(1000, 0, math.inf, "the line of an invocation, which carries its metrics"),
    "access_log_bytes": Parameter(400, 0, math.inf, "the line of a request in the API's access log"),
    "log_days": Parameter(30, 1, math.inf, "how long logs are stored"),
    "log_compression": Parameter(0.15, 0, 1, "what is left of a stored log, as AWS's calculator has it"),
    "metrics": Parameter(19, 0, math.inf, "custom metrics, billed in hours with requests"),
    "alarms": Parameter(5, 0, math.inf, "of one metric each, with and without the cache"),
    "cache_alarms": Parameter(6, 0, math.inf, "with it: those on the cache and on `invalidate`"),
    "dashboards": Parameter(0, 0, math.inf, "that are billed"),
    "users_traced": Parameter(1, 0, 1, "active tracing of `users`; 0: off"),
    "invalidate_traced": Parameter(1, 0, 1, "active tracing of `invalidate`; 0: off"),
    # Up to the size that the gateway bills as one request.
    "response_bytes": Parameter(1000, 0, 512 * 1024, "an answer with its head; 0 leaves data transfer out"),
}

# One change at a time that affects whether the cache pays off.
VARIATIONS = [
    "hit_ratio=0.5", "hit_ratio=0.99", "memory_hit_ratio=0.5", "memory_hit_ratio=0.8",
    "change_ratio=0", "change_ratio=0.05", "invalidate_traced=0", "read_units=0.5", "read_units=2",
    "dynamodb_million_reads=0.052", "cached_gb=1", "cached_gb=10",
]
# A user store, by the price of a million lookups and the time of one.
STORE_PRICES = [0, 0.125, 1, 10]
STORE_TIMES_MS = [1, 7, 30, 100, 500]


def parse(arguments):
    """The prices and parameters; `name=value` overrides a default."""
    values = {name: parameter.value for name, parameter in PARAMETERS.items()} | PRICES
    errors, seen = [], set()
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals:
            errors.append(f"{argument!r}: not of the form name=value")
        elif name not in values:
            close = difflib.get_close_matches(name, values, 1)
            hint = f"did you mean {close[0]!r}?" if close else "a run without arguments lists all"
            errors.append(f"{name!r}: no parameter or price has this name; {hint}")
        elif name in seen:
            errors.append(f"{name!r}: given twice")
        else:
            seen.add(name)
            try:
                values[name] = value_of(name, text)
            except ValueError as error:
                errors.append(str(error))
    if errors:
        raise ValueError("\n".join(errors))
    return SimpleNamespace(**values)


def value_of(name, text):
    least, most = PARAMETERS[name][1:3] if name in PARAMETERS else (0, math.inf)
    numbers = []
    for part in text.split(",") if name == LOADS else [text]:
        try:
            number = float(part)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and least <= number <= most):
            accepted = f"of at least {least:,}" if most == math.inf else f"from {least:,} to {most:,}"
            raise ValueError(f"{name}={text}: {part!r} is not a number {accepted}")
        numbers.append(number)
    if name == LOADS:
        return tuple(numbers)
    return Price(numbers[0], PRICES[name].unit, "given", "") if name in PRICES else numbers[0]


def month(v, load, cached):
    """USD per month at `load` requests per second, by item."""
    requests = load * SECONDS
    changes = requests * v.change_ratio
    hit_ratio = v.hit_ratio if cached else v.memory_hit_ratio
    loads = requests * (1 - hit_ratio)

    def running(invocations, ms):
        # Billed in whole milliseconds. Rounded first, because 0.4 + 3 * 0.2 would otherwise count as two of them.
        gb_seconds = invocations * math.ceil(round(ms, 6)) / 1000 * v.memory_mb / 1024
        return v.lambda_million.of(invocations / MILLION) + v.lambda_gb_second.of(gb_seconds)

    def kept(gb):
        return v.kept_log_gb.of(gb * v.log_compression * v.log_days / DAYS)

    def traces(a_second):
        first = min(a_second, TRACED_EACH_SECOND)
        return v.million_traces.of((first + TRACED_OF_OTHERS * (a_second - first)) * SECONDS / MILLION)

    hit_ms, miss_ms = v.own_ms, v.own_ms + v.store_ms
    if cached:
        # A GET, and on a miss a SET NX and an EVALSHA too.
        hit_ms, miss_ms = hit_ms + v.redis_ms, miss_ms + 3 * v.redis_ms
    function_logs = requests * v.log_line_bytes / GB
    access_logs = requests * v.access_log_bytes / GB

    costs = {
        "API Gateway": v.http_api_million.of(requests / MILLION),
        "Lambda `users`": running(requests - loads, hit_ms) + running(loads, miss_ms),
        "DynamoDB": v.dynamodb_million_reads.of(loads * v.read_units / MILLION)
        + v.dynamodb_million_writes.of(changes * v.write_units / MILLION)
        + v.dynamodb_gb.of(v.table_gb) + v.dynamodb_recovery_gb.of(v.table_gb),
        "Logs": v.lambda_log_gb.of(function_logs) + v.log_gb.of(access_logs)
        + kept(function_logs + access_logs),
        "Metrics, alarms": v.metric.of(v.metrics if load else 0)
        + v.alarm.of(v.alarms + (v.cache_alarms if cached else 0))
        + v.dashboard.of(v.dashboards),
        "X-Ray of `users`": v.users_traced * traces(load),
        "Data to the internet": v.transfer_gb.of(requests * v.response_bytes / GB),
        "ElastiCache": 0.0,
        "Data between zones": 0.0,
        "`invalidate`: Lambda, logs, X-Ray": 0.0,
    }
    if cached:
        invocations = changes / v.changes_per_invocation
        # The entry is transferred once: in the reply to GET on a hit, in EVALSHA on a miss.
        whole = max(1, v.entry_bytes / 1000)
        ecpus = (requests - loads) * whole + loads * (2 + max(whole, v.script_ecpus)) + changes
        costs["ElastiCache"] = (v.valkey_gb_hour.of(max(v.cached_gb, VALKEY_LEAST_GB) * HOURS)
                                + v.valkey_million_ecpus.of(ecpus / MILLION))
        costs["Data between zones"] = v.zone_crossing_gb.of(
            requests * v.entry_bytes * v.zone_crossing_ratio / GB)
        logs = invocations * v.log_line_bytes / GB
        costs["`invalidate`: Lambda, logs, X-Ray"] = (
            running(invocations, v.own_ms + v.redis_ms) + v.log_gb.of(logs) + kept(logs)
            + v.invalidate_traced * traces(invocations / SECONDS))
    return costs


def saved(v, load):
    """How many USD per month the cache saves."""
    return sum(month(v, load, False).values()) - sum(month(v, load, True).values())


def break_even(v):
    """From how many requests per second on the cache saves money, or None."""
    below, above = 0, MOST_REQUESTS
    if saved(v, above) <= 0:
        return None
    while above - below > 0.01:
        middle = (below + above) / 2
        below, above = (middle, above) if saved(v, middle) <= 0 else (below, middle)
    return above


def usd(amount):
    return f"{amount:,.2f}".replace("-0.00", "0.00")


def rate(load):
    if load is None:
        return "never"
    return f"{load:.1f}" if load < 10 else f"{load:,.0f}"


def number(value):
    if isinstance(value, tuple):
        return ",".join(map(number, value))
    return f"{value:.10f}".rstrip("0").rstrip(".")


def print_table(title, head, rows, others="---:"):
    """Markdown; `others` aligns the columns after the first."""
    print(f"{title}\n")
    for row in [head, ["---", *[others] * (len(head) - 1)], *rows]:
        print(f"| {' | '.join(row)} |")
    print()


def main(arguments):
    try:
        v = parse(arguments)
    except ValueError as error:
        sys.exit(f"{error}\nUsage: scripts/costs.py [name=value]...")

    loads = getattr(v, LOADS)
    head = ["requests a second", *(f"{load:,g}" if load else "0 (idle)" for load in loads)]
    totals = []
    for title, cached in [("USD a month with the cache", True), ("USD a month without it", False)]:
        months = [month(v, load, cached) for load in loads]
        totals.append([sum(costs.values()) for costs in months])
        rows = [[what, *(usd(costs[what]) for costs in months)]
                for what in months[0] if any(costs[what] for costs in months)]
        rows.append(["**together**", *(f"**{usd(total)}**" for total in totals[-1])])
        print_table(title, head, rows)
    with_cache, without = totals
    print_table("USD a month that the cache saves", head, [
        ["saved", *(usd(b - a) for a, b in zip(with_cache, without))],
        ["of the whole", *(f"{100 * (b - a) / b:.0f} %" if b else "" for a, b in zip(with_cache, without))],
    ])

    largest = max(loads)
    rows = []
    for variation in ["", *VARIATIONS]:
        name = variation.partition("=")[0]
        other = parse([*(a for a in arguments if a.partition("=")[0] != name), *filter(None, [variation])])
        rows.append([f"`{variation}`" if variation else "as above", rate(break_even(other)),
                     usd(saved(other, largest))])
    print_table("Break-even, with one thing changed", [
        "what is different", "the cache saves from, requests a second",
        f"it saves at {largest:,g}, USD a month"], rows)

    rows = []
    for price in STORE_PRICES:
        stores = [SimpleNamespace(**{
            **vars(v), "read_units": 1, "store_ms": ms,
            "dynamodb_million_reads": Price(price, "million look-ups", "", "")}) for ms in STORE_TIMES_MS]
        rows.append([f"{price:g} USD", *(rate(break_even(store)) for store in stores)])
    print_table("Break-even with another store, in requests a second", [
        "a million lookups cost", *(f"one takes {ms} ms" for ms in STORE_TIMES_MS)], rows)

    print_table("Parameters", ["parameter", "value", "meaning"], [
        [f"`{name}`", number(getattr(v, name)), parameter.meaning]
        for name, parameter in PARAMETERS.items()], "---")
    rows = []
    for name in PRICES:
        price = getattr(v, name)
        beyond = "".join(f"; above {below[0]:,}: {number(tier[1])}"
                         for below, tier in zip(price.tiers, price.tiers[1:]))
        rows.append([f"`{name}`", f"{number(price.usd)}{beyond}", price.unit, price.source, price.date])
    print_table("Prices", ["price", "USD", "for a", "source", "as of"], rows, "---")


if __name__ == "__main__":
    main(sys.argv[1:])
