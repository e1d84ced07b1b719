//! The rules for an origin cache, row by row. Each row cites its section and, where the public test suite for HTTP
//! caches (<https://cache-tests.fyi>, http-tests/cache-tests) tests the same, the id of that test.

use std::time::Duration;

use http::{Response, StatusCode};

use crate::service::tests::{Fixture, get, header, minutes_2, status};
use crate::{Keep, Policy};

const ETAG: &str = r#"ETag: "a""#;
const CHANGED: &str = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT";
/// One minute after the test's clock.
const CLOCK_AND_60: &str = "Expires: Thu, 28 May 2026 20:27:40 GMT";

/// What a second request gets after a first one was answered with these fields.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// It gets the stored response, with this status.
    Hit(u16),
    /// The stored response has expired, so the cache loads again.
    Ended,
    /// The response was not stored, for this reason.
    Not(&'static str),
    /// The load fails (503), and the cache serves the stored response.
    Stale,
    /// The load fails, and the client gets the failure.
    Fails,
}

use Then::{Ended, Fails, Hit, Not, Stale};

struct Row {
    section: &'static str,
    status: u16,
    says: &'static [&'static str],
    /// How many seconds later the second request comes, and its fields.
    after: u64,
    asks: &'static [&'static str],
    then: Then,
    /// Ids of http-tests/cache-tests.
    ids: &'static str,
}

const fn row(
    section: &'static str,
    status: u16,
    says: &'static [&'static str],
    after: u64,
    asks: &'static [&'static str],
    then: Then,
    ids: &'static str,
) -> Row {
    Row { section, status, says, after, asks, then, ids }
}

/// The policy: 200 for 120 s, 404 for 5 s, 301 and 410 for 60 s; stale for 30 s. The key covers `Accept-Language`.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    // Storing: status and method (RFC 9111 §3, RFC 9110 §15.1).
    row("§3", 200, &[], 119, &[], Hit(200), "freshness-none"),
    row("§3", 200, &[], 120, &[], Ended, ""),
    row("§3", 404, &[], 4, &[], Hit(404), "status-404-fresh"),
    row("§3", 404, &[], 5, &[], Ended, "status-404-stale"),
    row("§3", 404, &["Cache-Control: max-age=60"], 59, &[], Hit(404), "status-404-fresh"),
    row("§3", 301, &["Location: /x"], 59, &[], Hit(301), "status-301-fresh"),
    row("§3", 410, &["Cache-Control: max-age=5"], 5, &[], Ended, "status-410-stale"),
    row("§3", 302, &["Cache-Control: max-age=60"], 0, &[], Not("status"), "status-302-fresh"),
    row("§3", 500, &["Cache-Control: max-age=60"], 0, &[], Not("status"), "status-500-fresh"),
    row("§3", 503, &[], 0, &[], Not("status"), ""),
    row("§3", 206, &["Content-Range: bytes 0-0/2", "Cache-Control: max-age=60"], 0, &[], Not("status"), ""),
    row("§3", 304, &[ETAG], 0, &[], Not("status"), ""),
    row("§3.1", 200, &["Connection: x-hop", "X-Hop: 1", "Cache-Control: max-age=60"], 0, &[], Hit(200), "headers-omit-headers-listed-in-Connection"),
    row("§3.5", 200, &["Cache-Control: max-age=60"], 0, &["Authorization: Bearer a"], Hit(200), "other-authorization"),
    // Keys (§4, §4.1): the key covers `Accept-Language` and no other field.
    row("§4.1", 200, &["Vary: Accept-Language"], 0, &[], Hit(200), "vary-match"),
    row("§4.1", 200, &["Vary: Accept-Language, Accept"], 0, &[], Not("vary"), "vary-2-no-match"),
    row("§4.1", 200, &["Vary: Accept-Language", "Vary: Accept"], 0, &[], Not("vary"), "vary-2-no-match"),
    row("§4.1", 200, &["Vary: *"], 0, &[], Not("vary"), "vary-star vary-syntax-star"),
    row("§4.1", 200, &["Vary: *, *"], 0, &[], Not("vary"), "vary-syntax-star-star"),
    row("§4.1", 200, &["Vary: *", "Vary: *"], 0, &[], Not("vary"), "vary-syntax-star-star-lines"),
    row("§4.1", 200, &["Vary: , *"], 0, &[], Not("vary"), "vary-syntax-empty-star"),
    row("§4.1", 200, &["Vary: ", "Vary: *"], 0, &[], Not("vary"), "vary-syntax-empty-star-lines"),
    row("§4.1", 200, &["Vary: *, Accept-Language"], 0, &[], Not("vary"), "vary-syntax-star-foo"),
    row("§4.1", 200, &["Vary: Accept-Language, *"], 0, &[], Not("vary"), "vary-syntax-foo-star"),
    // Freshness (§4.2.1): `Cache-Control`.
    row("§5.2.2.1", 200, &["Cache-Control: max-age=60"], 59, &[], Hit(200), "freshness-max-age"),
    row("§5.2.2.1", 200, &["Cache-Control: max-age=60"], 60, &[], Ended, "freshness-max-age-stale"),
    row("§5.2.2.1", 200, &["Cache-Control: max-age=0"], 0, &[], Not("not-fresh"), "freshness-max-age-0"),
    row("§1.2.2", 200, &["Cache-Control: max-age=2147483647"], 600, &[], Hit(200), "freshness-max-age-max-minus-1"),
    row("§1.2.2", 200, &["Cache-Control: max-age=2147483648"], 600, &[], Hit(200), "freshness-max-age-max"),
    row("§1.2.2", 200, &["Cache-Control: max-age=2147483649"], 600, &[], Hit(200), "freshness-max-age-max-plus-1"),
    row("§1.2.2", 200, &["Cache-Control: max-age=99999999999999999999"], 600, &[], Hit(200), "freshness-max-age-max-plus"),
    row("§4.2.3", 200, &["Cache-Control: max-age=60", "Age: 60"], 0, &[], Not("not-fresh"), "freshness-max-age-age"),
    row("§4.2.3", 200, &["Cache-Control: max-age=60", "Age: 50"], 10, &[], Ended, "freshness-max-age-age"),
    row("§5.3", 200, &["Cache-Control: max-age=60", "Expires: 0"], 59, &[], Hit(200), "freshness-max-age-expires-invalid"),
    row("§5.3", 200, &["Cache-Control: max-age=60", "Expires: Sun, 06 Nov 1994 08:49:37 GMT"], 59, &[], Hit(200), "freshness-max-age-expires"),
    row("§5.3", 200, &["Cache-Control: max-age=0", CLOCK_AND_60], 0, &[], Not("not-fresh"), "freshness-max-age-0-expires"),
    row("§5.2.3", 200, &["Cache-Control: foobar, max-age=60, x=\"y\""], 59, &[], Hit(200), "freshness-max-age-extension"),
    row("§5.2", 200, &["Cache-Control: mAx-aGe=60"], 59, &[], Hit(200), "freshness-max-age-case-insenstive"),
    row("§4.2.1", 200, &["Cache-Control: max-age=-60"], 0, &[], Not("bad-cache-control"), "freshness-max-age-negative"),
    row("§5.2.2.10", 200, &["Cache-Control: s-maxage=60"], 59, &[], Hit(200), "freshness-s-maxage-shared"),
    row("§5.2.2.10", 200, &["Cache-Control: max-age=60, s-maxage=10"], 10, &[], Ended, "freshness-max-age-s-maxage-shared-longer"),
    row("§5.2.2.10", 200, &["Cache-Control: s-maxage=10, max-age=60"], 10, &[], Ended, "freshness-max-age-s-maxage-shared-longer-reversed"),
    row("§5.2.2.10", 200, &["Cache-Control: max-age=60", "Cache-Control: s-maxage=10"], 10, &[], Ended, "freshness-max-age-s-maxage-shared-longer-multiple"),
    row("§5.2.2.10", 200, &["Cache-Control: max-age=10, s-maxage=60"], 59, &[], Hit(200), "freshness-max-age-s-maxage-shared-shorter"),
    row("§5.2.2.10", 200, &["Cache-Control: s-maxage=60", "Expires: 0"], 59, &[], Hit(200), "freshness-max-age-s-maxage-shared-shorter-expires"),
    // The grammar (§5.2, RFC 9110 §5.6).
    row("§4.2.1", 200, &["Cache-Control: max-age=1800, max-age=1"], 0, &[], Not("bad-cache-control"), "freshness-max-age-two-fresh-stale-sameline"),
    row("§4.2.1", 200, &["Cache-Control: max-age=1", "Cache-Control: max-age=1800"], 0, &[], Not("bad-cache-control"), "freshness-max-age-two-stale-fresh-sepline"),
    row("§4.2.1", 200, &["Cache-Control: max-age=60, max-age=60"], 59, &[], Hit(200), ""),
    row("§5.2", 200, &["Cache-Control: max-age=\"60\""], 59, &[], Hit(200), "freshness-max-age-quoted"),
    row("§5.2", 200, &["Cache-Control: extension=\"max-age=3600\", max-age=1"], 1, &[], Ended, "freshness-max-age-ignore-quoted"),
    row("§5.2", 200, &["Cache-Control: max-age=1, extension=\"max-age=3600\""], 1, &[], Ended, "freshness-max-age-ignore-quoted-rev"),
    row("§5.2", 200, &["Cache-Control: max-age =60"], 0, &[], Not("bad-cache-control"), "freshness-max-age-space-before-equals"),
    row("§5.2", 200, &["Cache-Control: max-age= 60"], 0, &[], Not("bad-cache-control"), "freshness-max-age-space-after-equals"),
    row("§1.2.2", 200, &["Cache-Control: max-age=0060"], 59, &[], Hit(200), "freshness-max-age-leading-zero"),
    row("§5.2", 200, &["Cache-Control: max-age='60'"], 0, &[], Not("bad-cache-control"), "freshness-max-age-single-quoted"),
    row("§1.2.2", 200, &["Cache-Control: max-age=60.0"], 0, &[], Not("bad-cache-control"), "freshness-max-age-decimal-zero"),
    row("§1.2.2", 200, &["Cache-Control: max-age=a60"], 0, &[], Not("bad-cache-control"), "freshness-max-age-a100"),
    row("§1.2.2", 200, &["Cache-Control: max-age=60a"], 0, &[], Not("bad-cache-control"), "freshness-max-age-100a"),
    // `Expires` (§5.3). The clock stands still, so `Date` and now differ only where a row says so.
    row("§5.3", 200, &[CLOCK_AND_60], 59, &[], Hit(200), "freshness-expires-future"),
    row("§5.3", 200, &[CLOCK_AND_60], 60, &[], Ended, "freshness-expires-future"),
    row("§5.3", 200, &["Expires: Sun, 06 Nov 1994 08:49:37 GMT"], 0, &[], Not("not-fresh"), "freshness-expires-past"),
    row("§4.2.1", 200, &["Date: Sun, 06 Nov 1994 08:49:37 GMT", "Expires: Sun, 06 Nov 1994 08:50:37 GMT"], 59, &[], Hit(200), "freshness-expires-old-date"),
    row("§4.2.1", 200, &["Date: x", CLOCK_AND_60], 59, &[], Hit(200), "freshness-expires-invalid-date"),
    row("§5.3", 200, &["Expires: 0"], 0, &[], Not("not-fresh"), "freshness-expires-invalid"),
    row("§4.2.3", 200, &[CLOCK_AND_60, "Age: 60"], 0, &[], Not("not-fresh"), "freshness-expires-age-slow-date"),
    row("§5.3", 200, &["Expires: Thursday, 28-May-26 20:27:40 GMT"], 59, &[], Hit(200), "freshness-expires-rfc850"),
    row("§5.3", 200, &["Expires: Thu May 28 20:27:40 2026"], 59, &[], Hit(200), "freshness-expires-ansi-c"),
    row("§5.3", 200, &["Expires: Thu, 28 May 2026 20:27:40 UTC"], 0, &[], Not("not-fresh"), "freshness-expires-invalid-utc"),
    row("§5.3", 200, &["Expires: Thu, 28 May 2026 20:27:40 AEST"], 0, &[], Not("not-fresh"), "freshness-expires-invalid-aest"),
    row("§5.3", 200, &["Expires: Thu 28 May 2026 20:27:40 GMT"], 0, &[], Not("not-fresh"), "freshness-expires-invalid-no-comma"),
    row("§5.3", 200, &["Expires: Thu, 28-May-2026 20:27:40 GMT"], 0, &[], Not("not-fresh"), "freshness-expires-invalid-date-dashes"),
    row("§5.3", 200, &["Expires: Thu, 28 May 2026 20.27.40 GMT"], 0, &[], Not("not-fresh"), "freshness-expires-invalid-time-periods"),
    row("§4.2.1", 200, &[CLOCK_AND_60, "Expires: 0"], 0, &[], Not("not-fresh"), "freshness-expires-invalid-multiple-lines"),
    // `Age` (§5.1).
    row("§5.1", 200, &["Cache-Control: max-age=60", "Age: abc"], 59, &[], Hit(200), "age-parse-nonnumeric"),
    row("§5.1", 200, &["Cache-Control: max-age=60", "Age: -7200"], 59, &[], Hit(200), "age-parse-negative"),
    row("§5.1", 200, &["Cache-Control: max-age=60", "Age: 7200.0"], 59, &[], Hit(200), "age-parse-float"),
    row("§5.1", 200, &["Cache-Control: max-age=60", "Age: 2147483648"], 0, &[], Not("not-fresh"), "age-parse-large"),
    row("§5.1", 200, &["Cache-Control: max-age=60", "Age: 99999999999999999999"], 0, &[], Not("not-fresh"), "age-parse-larger"),
    row("§5.1", 200, &["Cache-Control: max-age=60", "Age: 7200, 0"], 0, &[], Not("not-fresh"), "age-parse-suffix"),
    row("§5.1", 200, &["Cache-Control: max-age=60", "Age: 0, 7200"], 59, &[], Hit(200), "age-parse-prefix"),
    row("§5.1", 200, &["Cache-Control: max-age=60", "Age: 7200", "Age: 0"], 0, &[], Not("not-fresh"), "age-parse-suffix-twoline"),
    row("§5.1", 200, &["Cache-Control: max-age=60", "Age: 0", "Age: 7200"], 59, &[], Hit(200), "age-parse-prefix-twoline"),
    // Directives that forbid (§5.2.2).
    row("§5.2.2.5", 200, &["Cache-Control: no-store"], 0, &[], Not("no-store"), "cc-resp-no-store"),
    row("§5.2.2.5", 200, &["Cache-Control: No-StOrE"], 0, &[], Not("no-store"), "cc-resp-no-store-case-insensitive"),
    row("§5.2.2.5", 200, &["Cache-Control: max-age=600, no-store"], 0, &[], Not("no-store"), "cc-resp-no-store-fresh"),
    row("§5.2.2.3", 200, &["Cache-Control: max-age=600, no-store, must-understand"], 0, &[], Not("no-store"), ""),
    row("§5.2.2.7", 200, &["Cache-Control: private, max-age=600"], 0, &[], Not("private"), "cc-resp-private-shared"),
    row("§5.2.2.4", 200, &["Cache-Control: no-cache, max-age=600"], 0, &[], Not("no-cache"), "cc-resp-no-cache"),
    row("§5.2.2.4", 200, &["Cache-Control: No-CaChE"], 0, &[], Not("no-cache"), "cc-resp-no-cache-case-insensitive"),
    row("§5.2.2.4", 200, &["Cache-Control: no-cache=\"a\", max-age=600", "A: 1"], 0, &[], Not("no-cache"), "headers-omit-headers-listed-in-Cache-Control-no-cache-single"),
    row("§7.3", 200, &["Set-Cookie: a=b", "Cache-Control: max-age=60"], 0, &[], Not("set-cookie"), "other-set-cookie"),
    row("§5.4", 200, &["Pragma: no-cache", "Cache-Control: max-age=60"], 59, &[], Hit(200), "pragma-response-no-cache"),
    // Serving stale (§4.2.4, RFC 5861 §4).
    row("§4.2.4", 200, &["Cache-Control: max-age=60"], 89, &[], Stale, "stale-503"),
    row("§4.2.4", 200, &["Cache-Control: max-age=60"], 90, &[], Fails, "stale-503"),
    row("§5.2.2.2", 200, &["Cache-Control: max-age=60, must-revalidate"], 60, &[], Fails, "stale-close-must-revalidate"),
    row("§5.2.2.2", 200, &["Cache-Control: max-age=60, must-revalidate"], 59, &[], Hit(200), "cc-resp-must-revalidate-fresh"),
    row("§5.2.2.8", 200, &["Cache-Control: max-age=60, proxy-revalidate"], 60, &[], Fails, "stale-close-proxy-revalidate"),
    row("§5.2.2.10", 200, &["Cache-Control: s-maxage=60"], 60, &[], Fails, "stale-close-s-maxage=2"),
    row("RFC 5861 §4", 200, &["Cache-Control: max-age=60, stale-if-error=60"], 119, &[], Stale, "stale-sie-503"),
    row("RFC 5861 §4", 200, &["Cache-Control: max-age=60, stale-if-error=60"], 120, &[], Fails, "stale-sie-503"),
    row("RFC 8246 §2", 200, &["Cache-Control: max-age=60, immutable"], 60, &[], Ended, "cc-resp-immutable-stale"),
    // Request fields: this cache is part of the origin and obeys no client, as §5.2.1 allows.
    row("§5.2.1.4", 200, &[], 0, &["Cache-Control: no-cache"], Hit(200), "ccreq-no-cache"),
    row("§5.2.1.5", 200, &[], 0, &["Cache-Control: no-store"], Hit(200), "ccreq-no-store"),
    row("§5.2.1.1", 200, &[], 30, &["Cache-Control: max-age=10"], Hit(200), "ccreq-ma1"),
    row("§5.4", 200, &[], 0, &["Pragma: no-cache"], Hit(200), "pragma-request-no-cache"),
    row("RFC 9110 §14.2", 200, &[], 0, &["Range: bytes=0-1"], Hit(200), ""),
    // Preconditions (§4.3.2, RFC 9110 §13).
    row("RFC 9110 §13.1.2", 200, &[ETAG], 0, &["If-None-Match: \"a\""], Hit(304), "conditional-etag-strong-respond"),
    row("RFC 9110 §13.1.2", 200, &[ETAG], 0, &["If-None-Match: W/\"a\""], Hit(304), ""),
    row("RFC 9110 §13.1.2", 200, &[ETAG], 0, &["If-None-Match: \"b\", \"a\""], Hit(304), "conditional-etag-strong-respond-multiple-first"),
    row("RFC 9110 §13.1.2", 200, &[ETAG], 0, &["If-None-Match: \"b\""], Hit(200), ""),
    row("RFC 9110 §13.1.2", 200, &[ETAG, "Cache-Control: max-age=60"], 60, &["If-None-Match: \"b\""], Ended, ""),
    row("RFC 9110 §13.1.3", 200, &[CHANGED], 0, &["If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"], Hit(304), "conditional-lm-fresh"),
    row("RFC 9110 §13.1.3", 200, &[CHANGED], 0, &["If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT"], Hit(200), ""),
    row("RFC 9110 §13.1.3", 200, &[ETAG, CHANGED], 0, &["If-None-Match: \"b\"", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"], Hit(200), "conditional-etag-precedence"),
    row("RFC 9110 §13.1.1", 200, &[ETAG], 0, &["If-Match: \"b\""], Hit(412), ""),
    row("RFC 9110 §13.1.1", 200, &[ETAG], 0, &["If-Match: \"a\""], Hit(200), ""),
    row("RFC 9110 §13.1.4", 200, &[CHANGED], 0, &["If-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT"], Hit(412), ""),
    row("RFC 9110 §13.2.1", 404, &[ETAG], 0, &["If-None-Match: \"a\""], Hit(404), ""),
    row("RFC 9110 §13.2.1", 301, &[ETAG], 0, &["If-Match: \"b\""], Hit(301), ""),
];

fn policy() -> Policy {
    let minute = Duration::from_mins(1);
    minutes_2()
        .with_not_found_ttl(Duration::from_secs(5))
        .with_status(StatusCode::MOVED_PERMANENTLY, minute)
        .and_then(|policy| policy.with_status(StatusCode::GONE, minute))
        .unwrap()
        .with_stale_if_error(Duration::from_secs(30))
        .with_key_headers([http::header::ACCEPT_LANGUAGE])
}

fn response(status: u16, fields: &[&'static str], body: &'static str) -> Response<&'static str> {
    fields
        .iter()
        .map(|field| field.split_once(": ").unwrap())
        .fold(Response::builder().status(status), |response, (name, value)| {
            response.header(name, value)
        })
        .body(body)
        .unwrap()
}

#[tokio::test]
async fn each_rule_of_rfc_9111_for_an_origin_cache_holds() {
    assert!(ROWS.len() >= 60);
    let mut broken = Vec::new();
    for row in ROWS {
        let fixture = Fixture::new(policy());
        let first = fixture.get(response(row.status, row.says, "first")).await;
        let told = status(&first).to_owned();
        fixture.clock.advance(Duration::from_secs(row.after));
        let mut again = get();
        for field in row.asks {
            let (name, value) = field.split_once(": ").unwrap();
            again.headers_mut().append(name, value.parse().unwrap());
        }
        let code = if matches!(row.then, Stale | Fails) { 503 } else { 200 };
        let second = fixture.ask(again, response(code, &[], "second")).await;
        let (is_first, loads) = (second.body() == "first", fixture.loads());
        let stored = told.ends_with("; stored");
        let is_right = match row.then {
            Hit(code) => {
                let is_whole = ![304, 412].contains(&code);
                let is_hit = status(&second).starts_with("response-boost; hit");
                stored && is_hit && loads == 1 && second.status() == code && is_first == is_whole
            }
            Ended => stored && loads == 2 && second.body() == "second",
            Not(why) => told.ends_with(&format!("; detail={why}")) && loads == 2 && !is_first,
            Stale => stored && loads == 2 && is_first && status(&second).contains("fwd=stale"),
            Fails => stored && loads == 2 && second.status() == 503,
        };
        if !is_right {
            broken.push(format!(
                "{} {} {:?} after {} s, {:?}: {:?} ({}), but {told}, then {} {}",
                row.section,
                row.status,
                row.says,
                row.after,
                row.asks,
                row.then,
                row.ids,
                second.status(),
                status(&second),
            ));
        }
    }
    assert!(broken.is_empty(), "{} of {}:\n{}", broken.len(), ROWS.len(), broken.join("\n"));
}

/// The number after a word.
fn number(text: &str, word: &str) -> Option<u64> {
    let digits = text.split_once(word)?.1;
    digits.split(|digit: char| !digit.is_ascii_digit()).next()?.parse().ok()
}

#[tokio::test]
async fn the_table_in_the_docs_is_what_the_cache_does() {
    let rows: Vec<Vec<&str>> = include_str!("directives.md")
        .lines()
        .skip(2)
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert!(rows.len() >= 30);
    for row in rows {
        let [says, stored, stale, source] = row[..] else { panic!("{row:?}") };
        assert!(source.starts_with("RFC "), "{row:?}");
        let fields: Vec<&'static str> =
            says.split('`').filter(|part| part.contains(": ")).collect();
        let policy = minutes_2().with_stale_if_error(Duration::from_secs(30)).with_inline_refresh();
        let fixture = Fixture::new(policy);
        let miss = fixture.get(response(200, &fields, "first")).await;
        let Some(seconds) = number(stored, "for ") else {
            let why = stored.split('`').nth(1).unwrap();
            let expected = format!("response-boost; fwd=uri-miss; detail={why}");
            assert_eq!((status(&miss), stale), (expected.as_str(), "never"), "{row:?}");
            continue;
        };
        let hit = fixture.get(response(200, &[], "second")).await;
        assert_eq!(status(&hit), format!("response-boost; hit; ttl={seconds}"), "{row:?}");
        if !says.contains("Cache-Control") && !says.contains("Expires") {
            assert_eq!(header(&hit, "cache-control"), "private, max-age=120");
        }
        let down = || response(503, &[], "down");
        let window = number(stale, "for ").unwrap_or_default();
        if window > 0 {
            fixture.clock.advance(Duration::from_secs(seconds + window - 1));
            assert_eq!(fixture.get(down()).await.body(), "first", "{row:?}");
            fixture.clock.advance(Duration::from_secs(1));
        } else {
            assert!(stale.starts_with("never"));
            fixture.clock.advance(Duration::from_secs(seconds));
        }
        assert_eq!(fixture.get(down()).await.body(), "down", "{row:?}");
    }
}

/// Arbitrary fields cause no panic, and a malformed one never makes the cache store a response for longer than the
/// policy says.
#[test]
fn whatever_a_response_says_there_is_an_answer() {
    use proptest::prelude::*;
    let value = prop_oneof![
        "[ -~]{0,40}",
        "((no-store|max-age|s-maxage|private|x)(=(\"[a-z0-9\\\\]*\"?|[0-9]{0,25}))?[, ]{0,3}){0,4}",
    ];
    let name = prop::sample::select(&["cache-control", "expires", "age", "vary", "date", "etag"]);
    let fields = prop::collection::vec((name, value), 0..5);
    proptest!(|(fields in fields, keep in prop::option::of(any::<u64>()))| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut inside = Response::new("x");
            for (name, value) in &fields {
                if let Ok(value) = value.parse() {
                    inside.headers_mut().append(*name, value);
                }
            }
            if let Some(ms) = keep {
                inside.extensions_mut().insert(Keep::new(Duration::from_millis(ms)));
            }
            let forbids = inside.headers().get_all("cache-control").iter().any(|value| {
                let value = value.to_str().unwrap_or_default();
                value.trim_matches([',', ' ']) == "no-store"
            });
            let fixture = Fixture::new(minutes_2());
            let miss = fixture.get(inside).await;
            assert_eq!(miss.status(), 200);
            assert!(!(forbids && status(&miss).contains("stored")), "{fields:?}");
            assert_eq!(fixture.get(Response::new("y")).await.status(), 200);
        });
    });
}
