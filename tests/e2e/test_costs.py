"""`scripts/costs.py`, and its tables in docs/costs.md."""

import re
import subprocess
import sys
import unittest

from support import ROOT

DOCUMENT = ROOT / "docs/costs.md"


def run(*arguments):
    return subprocess.run([sys.executable, ROOT / "scripts/costs.py", *arguments],
                          capture_output=True, text=True)


def tables_of(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def cells(line):
    return [cell.strip(" *").replace("`", "") for cell in line.strip("|").split("|")]


def figures(title, *arguments):
    """A table of the script, by its first column."""
    ran = run(*arguments)
    if ran.returncode or ran.stderr:
        raise AssertionError(ran.stderr)
    table = tables_of(ran.stdout.split(f"{title}\n\n")[1].split("\n\n")[0])
    return {row[0]: row[1:] for row in map(cells, table[2:])}


class Costs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.prices = list(figures("Prices"))

    def only(self, price, *arguments, title="USD a month with the cache"):
        """The cost of a month if all prices but one are zero."""
        given = [price] if "=" in price else []
        return figures(title, *self.free_but(price.split("=")[0]), *given, *arguments)["together"]

    def free_but(self, *paid):
        self.assertLessEqual(set(paid), set(self.prices))
        return [f"{name}=0" for name in self.prices if name not in paid]

    def test_the_document_has_the_tables_that_the_script_prints(self):
        ran = run()
        self.assertEqual((ran.returncode, ran.stderr), (0, ""))
        self.assertEqual(tables_of(DOCUMENT.read_text()), tables_of(ran.stdout),
                         "put what scripts/costs.py prints into docs/costs.md")

    def test_each_name_in_a_command_of_the_document_is_one_of_the_script(self):
        commands = re.findall(r"^scripts/costs\.py (.*?)(?: +#.*)?$",
                              DOCUMENT.read_text(), re.MULTILINE)
        self.assertTrue(commands)
        for command in commands:
            self.assertEqual(run(*command.split()).returncode, 0, command)

    def test_a_command_of_the_document_prints_the_sum_beside_it(self):
        summed = re.findall(r"^scripts/costs\.py (.*?) +# (\d+) USD$", DOCUMENT.read_text(), re.MULTILINE)
        self.assertTrue(summed)
        for command, usd in summed:
            [together] = figures("USD a month with the cache", *command.split())["together"]
            self.assertEqual(f"{float(together):.0f}", usd, command)

    def test_all_that_is_wrong_is_said_at_once(self):
        ran = run("hit_ration=1", "hit_ratio=2", "alarms", "requests_per_second=1,many", "metrics=nan",
                  "own_ms=-1", "log_gb=", "alarms=1", "alarms=2", "zzz=1")
        self.assertEqual((ran.returncode, ran.stdout), (1, ""))
        self.assertEqual(ran.stderr.splitlines(), [
            "'hit_ration': no parameter or price has this name; did you mean 'hit_ratio'?",
            "hit_ratio=2: '2' is not a number from 0 to 1",
            "'alarms': not of the form name=value",
            "requests_per_second=1,many: 'many' is not a number from 0 to 100,000",
            "metrics=nan: 'nan' is not a number of at least 0",
            "own_ms=-1: '-1' is not a number of at least 0",
            "log_gb=: '' is not a number of at least 0",
            "'alarms': given twice",
            "'zzz': no parameter or price has this name; a run without arguments lists all",
            "Usage: scripts/costs.py [name=value]...",
        ])

    def test_other_values_take_the_place_of_the_defaults(self):
        given = ["requests_per_second=50", "hit_ratio=0.25", "alarm=7"]
        self.assertEqual(figures("Parameters", *given)["hit_ratio"][0], "0.25")
        self.assertEqual(figures("Prices", *given)["alarm"][::3], ["7", ""])
        self.assertEqual(self.only("alarm=7", "requests_per_second=50"), ["77.00"])

    def test_a_tier_begins_where_the_one_before_it_ends(self):
        # 262.8 million are all in the first tier; of 2,628 million, 300 are.
        self.assertEqual(self.only("http_api_million", "requests_per_second=100,1000"),
                         ["262.80", f"{300 * 1 + 2328 * 0.9:,.2f}"])

    def test_a_hit_is_billed_a_round_trip_and_a_miss_three_and_the_load(self):
        # 2.628 million requests; 1 + 1 ms or 1 + 3 + 7 ms, with a quarter of a GB.
        given = ["lambda_gb_second=1", "requests_per_second=1", "change_ratio=0"]
        self.assertEqual(self.only(*given, "hit_ratio=1"), [f"{2_628_000 * 0.002 / 4:,.2f}"])
        self.assertEqual(self.only(*given, "hit_ratio=0"), [f"{2_628_000 * 0.011 / 4:,.2f}"])
        title = "USD a month without it"
        self.assertEqual(self.only(*given, title=title), [f"{2_628_000 * 0.008 / 4:,.2f}"])
        self.assertEqual(self.only(*given, "memory_hit_ratio=1", title=title),
                         [f"{2_628_000 * 0.001 / 4:,.2f}"])

    def test_time_is_billed_in_whole_milliseconds(self):
        given = ["lambda_gb_second=1", "requests_per_second=1", "change_ratio=0", "hit_ratio=1"]
        self.assertEqual(self.only(*given, "redis_ms=0.2"), self.only(*given, "redis_ms=1"))
        # In floating point, 0.1 + 0.5 + 3 * 0.8 is slightly more than 3.
        self.assertEqual(self.only(*given[:-1], "hit_ratio=0", "own_ms=0.1", "store_ms=0.5", "redis_ms=0.8"),
                         [f"{2_628_000 * 0.003 / 4:,.2f}"])

    def test_a_hit_takes_one_ecpu_and_a_miss_those_of_its_script_too(self):
        given = ["valkey_million_ecpus=1", "requests_per_second=1000", "change_ratio=0"]
        self.assertEqual(self.only(*given, "hit_ratio=1"), ["2,628.00"])
        self.assertEqual(self.only(*given, "hit_ratio=0"), [f"{2628 * 7:,.2f}"])
        self.assertEqual(self.only(*given, "hit_ratio=1", "entry_bytes=3200"), [f"{2628 * 3.2:,.2f}"])

    def test_an_idle_cache_is_billed_a_tenth_of_a_gigabyte(self):
        for cached_gb, billed in [(0, 0.1), (0.1, 0.1), (2, 2)]:
            self.assertEqual(self.only("valkey_gb_hour", "requests_per_second=0", f"cached_gb={cached_gb}"),
                             [f"{billed * 730 * 0.084:.2f}"])

    def test_a_load_reads_and_a_hit_does_not(self):
        given = ["dynamodb_million_reads=1", "requests_per_second=1000", "read_units=2"]
        self.assertEqual(self.only(*given, "hit_ratio=0.75"), [f"{2628 / 4 * 2:,.2f}"])
        self.assertEqual(self.only(*given, title="USD a month without it"), [f"{2628 * 2:,.2f}"])

    def test_a_change_is_written_either_way_and_runs_invalidate_with_the_cache(self):
        given = ["requests_per_second=1000", "change_ratio=0.1"]
        for title in ["USD a month with the cache", "USD a month without it"]:
            self.assertEqual(self.only("dynamodb_million_writes=1", "write_units=3", *given, title=title),
                             [f"{262.8 * 3:.2f}"])
        self.assertEqual(self.only("lambda_million=1", *given), [f"{2628 * 1.1:,.2f}"])
        self.assertEqual(self.only("lambda_million=1", *given, "changes_per_invocation=10"),
                         [f"{2628 * 1.01:,.2f}"])
        self.assertEqual(self.only("lambda_million=1", *given, title="USD a month without it"), ["2,628.00"])

    def test_invalidate_takes_a_round_trip_an_ecpu_a_log_line_and_traces_for_a_change(self):
        # One change for each of 100 requests per second, all of them hits.
        given = ["requests_per_second=100", "change_ratio=1", "hit_ratio=1"]
        for price, cost in [("lambda_gb_second=1", 262.8e6 * 0.002 / 4), ("log_gb=1", 262.8),
                            ("kept_log_gb=1", 262.8 * 0.15 * 30 / (365 / 12)),
                            ("million_traces=1", 2.628 * (1 + 99 * 0.05))]:
            name = price.split("=")[0]
            table = figures("USD a month with the cache", *self.free_but(name), price, *given)
            self.assertEqual(table["invalidate: Lambda, logs, X-Ray"], [f"{cost:,.2f}"], price)
        self.assertEqual(self.only("million_traces=1", *given, "users_traced=0", "invalidate_traced=0"),
                         ["0.00"])
        self.assertEqual(self.only("valkey_million_ecpus=1", *given), [f"{262.8 * 2:.2f}"])

    def test_logs_are_those_of_the_functions_and_of_the_gateway(self):
        given = ["requests_per_second=1000", "change_ratio=0"]
        self.assertEqual(self.only("lambda_log_gb=1", *given), ["2,628.00"])
        self.assertEqual(self.only("log_gb=1", *given), [f"{2628 * 0.4:,.2f}"])
        self.assertEqual(self.only("kept_log_gb=1", *given, "log_days=365"),
                         [f"{2628 * 1.4 * 0.15 * 12:,.2f}"])

    def test_the_first_request_of_a_second_is_traced_and_a_twentieth_of_the_others(self):
        given = ["million_traces", "requests_per_second=0,1,101", "change_ratio=0"]
        self.assertEqual(self.only(*given), ["0.00", "13.14", f"{6 * 13.14:.2f}"])
        self.assertEqual(self.only(*given, "users_traced=0"), ["0.00"] * 3)

    def test_the_try_out_stack_under_full_load_costs_less_than_150_usd(self):
        """The three embedded users, and the limit of samconfig.toml all month."""
        limit = re.search(r"ApiRequestsPerSecond=(\d+)", (ROOT / "samconfig.toml").read_text())[1]
        command, stated = re.search(r"^scripts/costs.py (requests_per_second=\d+ .*?) +# (\d+) USD", DOCUMENT.read_text(),
                                    re.MULTILINE).groups()
        self.assertIn(f"requests_per_second={limit} ", command)
        together = float(figures("USD a month with the cache", *command.split())["together"][0])
        self.assertEqual(round(together), int(stated))
        self.assertLess(together, 150)

    def test_the_alarms_and_series_are_those_that_there_are(self):
        alarms = re.findall(r"^  (\w+Alarm):$", (ROOT / "template.yaml").read_text(), re.MULTILINE)
        given = figures("Parameters")
        # This alarm exists only if hits are audited.
        alarms.remove("AuditStaleAlarm")
        self.assertEqual(int(given["alarms"][0]) + int(given["cache_alarms"][0]), len(alarms))
        series = re.search(r"That is (\d+) series", (ROOT / "docs/logs.md").read_text())[1]
        self.assertEqual(given["metrics"][0], series)

    def test_an_idle_month_has_alarms_and_no_metrics(self):
        self.assertEqual(self.only("metric", "requests_per_second=0,1"), ["0.00", "5.70"])
        self.assertEqual(self.only("alarm", "requests_per_second=0,1"), ["1.10", "1.10"])
        without = self.only("alarm", "requests_per_second=0", title="USD a month without it")
        self.assertEqual(without, ["0.50"])
        self.assertEqual(self.only("dashboard", "requests_per_second=0", "dashboards=2"), ["6.00"])

    def test_bytes_are_billed_by_where_they_go(self):
        given = ["requests_per_second=1000"]
        self.assertEqual(self.only("transfer_gb=1", *given), ["2,628.00"])
        self.assertEqual(self.only("zone_crossing_gb=1", *given), [f"{2628 / 4:,.2f}"])
        self.assertEqual(self.only("zone_crossing_gb=1", *given, title="USD a month without it"), ["0.00"])

    def test_a_table_is_kept_and_recoverable_either_way(self):
        for title in ["USD a month with the cache", "USD a month without it"]:
            for price in ["dynamodb_gb=1", "dynamodb_recovery_gb=1"]:
                self.assertEqual(self.only(price, "requests_per_second=0", "table_gb=3", title=title), ["3.00"])

    def test_at_the_break_even_nothing_is_saved_and_none_is_given_where_there_is_none(self):
        title = "Break-even, with one thing changed"
        # A cache that costs 73 USD per month and saves 1 USD per million requests, all of them hits.
        given = [*self.free_but("valkey_gb_hour", "dynamodb_million_reads"),
                 "valkey_gb_hour=1", "dynamodb_million_reads=1", "hit_ratio=1"]
        self.assertEqual(figures(title, *given, "requests_per_second=1000")["as above"],
                         [f"{73 / 2.628:.0f}", f"{2628 - 73:,.2f}"])
        self.assertEqual(figures(title, *given, "memory_hit_ratio=1")["as above"][0], "never")


if __name__ == "__main__":
    unittest.main()
