//! What a response says about its storage: its status, its header fields, and [`Keep`] (RFC 9111 §3, §4.2).

use std::time::{Duration, SystemTime};

use headers::{Date, Expires, HeaderMapExt as _};
use http::header::{AGE, CACHE_CONTROL, EXPIRES, HeaderName, SET_COOKIE, VARY};
use http::{HeaderMap, response};

use crate::{NotStored, Policy, Tag};

/// The largest number of seconds that a directive may give. Larger numbers are capped (RFC 9111 §1.2.2).
const MOST_SECONDS: u64 = 1 << 31;

/// Says how to store one response: for how long, and with which [`Tag`]s. It is a response extension, so no client sees
/// it.
///
/// Its TTL takes precedence over the freshness that `Cache-Control`, `Expires` and the [`Policy`] give, so a service
/// can let the cache store a response for an hour that clients must revalidate each time (`Cache-Control: max-age=0`).
/// A `Cache-Control` that forbids storing (`no-store`, `private`, `no-cache`) still forbids it. The policy still
/// decides which statuses are stored, and [`Policy::with_max_ttl`] still caps the TTL. If the service sends neither
/// `Cache-Control` nor `Expires`, clients see `private, max-age=…` with this TTL.
///
/// ```
/// use std::time::Duration;
/// use response_boost::Keep;
///
/// let mut response = http::Response::new("42");
/// response.extensions_mut().insert(Keep::new(Duration::from_secs(30)));
/// ```
///
/// In axum, a handler returns `(Extension(Keep::new(ttl)), body)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    ttl: Option<Duration>,
    tags: Vec<Tag>,
}

impl Keep {
    /// Stores the response for `ttl`, counted from the start of its load. Zero: the response is not stored.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self { ttl: Some(ttl), tags: Vec::new() }
    }

    /// Stores the response with these tags; the TTL is not affected.
    #[must_use]
    pub fn tagged(tags: impl IntoIterator<Item = Tag>) -> Self {
        Self { ttl: None, tags: tags.into_iter().collect() }
    }

    /// Adds these tags.
    ///
    /// The policy must let responses name tags of their namespace ([`Policy::with_response_tags`]); otherwise a
    /// response with tags is not stored (`detail=tags`).
    #[must_use]
    pub fn with_tags(mut self, tags: impl IntoIterator<Item = Tag>) -> Self {
        self.tags.extend(tags);
        self
    }

    pub(crate) fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    pub(crate) fn tags(&self) -> &[Tag] {
        &self.tags
    }
}

/// How long a response is fresh, counted from its [`age_at_load`], or why the cache does not store it.
pub(crate) fn ttl_of(
    response: &response::Parts,
    policy: &Policy,
    now: SystemTime,
) -> Result<Duration, NotStored> {
    let headers = &response.headers;
    let by_status = policy.ttl_of(response.status).ok_or(NotStored::Status)?;
    let said = Directives::of(headers).ok_or(NotStored::BadCacheControl)?;
    if let Some(forbidden) = said.forbids {
        return Err(forbidden);
    }
    if headers.contains_key(SET_COOKIE) {
        return Err(NotStored::SetCookie);
    }
    if !covers(policy, headers) {
        return Err(NotStored::Vary);
    }
    // An entry can hold only text.
    if headers.values().any(|value| value.to_str().is_err()) {
        return Err(NotStored::NotText);
    }
    let keep = response.extensions.get::<Keep>().and_then(Keep::ttl);
    let ttl = keep
        .or(said.s_maxage)
        .or(said.max_age)
        .or_else(|| headers.contains_key(EXPIRES).then(|| until_expires(headers, now)))
        .unwrap_or(by_status)
        .min(policy.max_ttl);
    if ttl <= age_at_load(headers) { Err(NotStored::NotFresh) } else { Ok(ttl) }
}

/// The age of a response when its load began, as an inner cache states it (RFC 9111 §4.2.3). The first of several
/// values counts; a value that is not a number is ignored (§5.1).
pub(crate) fn age_at_load(headers: &HeaderMap) -> Duration {
    let age = headers.get(AGE).and_then(|age| age.to_str().ok());
    let age =
        age.and_then(|age| age.split(',').next()).and_then(|first| seconds(first.trim_ascii()));
    age.unwrap_or_default()
}

/// How long a stored response may be served stale.
///
/// The service can forbid it (RFC 9111 §4.2.4) or set the window (RFC 5861).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StaleFor {
    /// If the load fails (RFC 5861 §4).
    pub(crate) if_error: Duration,
    /// While the cache refreshes it (RFC 5861 §3).
    pub(crate) while_revalidate: Duration,
}

impl StaleFor {
    pub(crate) fn of(headers: &HeaderMap, policy: &Policy) -> Self {
        let ours = Self {
            if_error: policy.stale_if_error,
            while_revalidate: policy.stale_while_revalidate,
        };
        if !headers.contains_key(CACHE_CONTROL) {
            return ours;
        }
        match Directives::of(headers) {
            Some(said) if !said.forbids_stale => Self {
                if_error: said.stale_if_error.unwrap_or(ours.if_error),
                while_revalidate: said.stale_while_revalidate.unwrap_or(ours.while_revalidate),
            },
            _ => Self { if_error: Duration::ZERO, while_revalidate: Duration::ZERO },
        }
    }

    /// The longer of the two windows.
    pub(crate) fn longest(self) -> Duration {
        self.if_error.max(self.while_revalidate)
    }
}

/// The `Cache-Control` for clients where the service sends its own `Cache-Control` or `Expires`: the same directives,
/// but with at most `at_most` seconds of freshness left. The response is `age` seconds old, and its load began at
/// `loaded_at`.
pub(crate) fn limited(
    headers: &HeaderMap,
    loaded_at: SystemTime,
    ttl: u64,
    age: u64,
    at_most: u64,
) -> String {
    let limit = age.saturating_add(at_most);
    let (mut limited, mut has_max_age) = (Vec::new(), false);
    let can_be_read = each(headers, |directive| {
        let name = directive.name.to_ascii_lowercase();
        has_max_age |= name == "max-age";
        limited.push(match directive.seconds() {
            Some(seconds) if name == "max-age" || name == "s-maxage" => {
                format!("{name}={}", seconds.as_secs().min(limit))
            }
            _ => directive.text.to_owned(),
        });
    });
    if !has_max_age {
        let expires = headers.typed_get::<Expires>().map(SystemTime::from);
        let seconds =
            expires.map_or(ttl, |at| at.duration_since(loaded_at).map_or(0, |left| left.as_secs()));
        limited.push(format!("max-age={}", seconds.min(limit)));
    }
    // A stored `Cache-Control` is well-formed, unless someone else wrote the entry.
    if can_be_read.is_some() {
        limited.join(", ")
    } else {
        format!("private, max-age={}", ttl.min(limit))
    }
}

/// Freshness until `Expires`, counted from `Date` or else from now (RFC 9111 §4.2.1, §5.3). A malformed date counts as
/// past, and so do two dates.
fn until_expires(headers: &HeaderMap, now: SystemTime) -> Duration {
    let date = headers.typed_get::<Date>().map_or(now, SystemTime::from);
    let expires = headers.typed_get::<Expires>().map(SystemTime::from);
    let left = expires.and_then(|expires| expires.duration_since(date).ok());
    left.map_or(Duration::ZERO, |left| capped(left.as_secs()))
}

/// Whether the key covers every field that the response varies by (RFC 9111 §4.1). No key covers `*`.
fn covers(policy: &Policy, headers: &HeaderMap) -> bool {
    headers.get_all(VARY).iter().all(|line| {
        line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii).all(|name| {
            name.is_empty()
                || HeaderName::from_bytes(name).is_ok_and(|name| policy.key_headers.contains(&name))
        })
    })
}

/// The directives of a `Cache-Control` that the cache obeys. Unknown directives have no effect (RFC 9111 §5.2.3).
#[derive(Debug, Default, PartialEq, Eq)]
struct Directives {
    /// `no-store`, `private` or `no-cache`, with or without an argument.
    forbids: Option<NotStored>,
    max_age: Option<Duration>,
    s_maxage: Option<Duration>,
    stale_if_error: Option<Duration>,
    stale_while_revalidate: Option<Duration>,
    /// `must-revalidate`, `proxy-revalidate`, or `s-maxage` (RFC 9111 §5.2.2.2, §5.2.2.8, §5.2.2.10).
    forbids_stale: bool,
}

impl Directives {
    /// `None`: a directive is malformed, or one gives two different times (RFC 9111 §4.2.1).
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut said = Self::default();
        let mut is_clear = true;
        each(headers, |directive| {
            let forbids = match &*directive.name.to_ascii_lowercase() {
                "no-store" => Some(NotStored::NoStore),
                "private" => Some(NotStored::Private),
                "no-cache" => Some(NotStored::NoCache),
                name @ ("max-age" | "s-maxage" | "stale-if-error" | "stale-while-revalidate") => {
                    let place = match name {
                        "max-age" => &mut said.max_age,
                        "s-maxage" => &mut said.s_maxage,
                        "stale-if-error" => &mut said.stale_if_error,
                        _ => &mut said.stale_while_revalidate,
                    };
                    let seconds = directive.seconds();
                    is_clear &= seconds.is_some() && (place.is_none() || *place == seconds);
                    *place = seconds;
                    said.forbids_stale |= name == "s-maxage";
                    None
                }
                "must-revalidate" | "proxy-revalidate" => {
                    said.forbids_stale = true;
                    None
                }
                _ => None,
            };
            said.forbids = said.forbids.or(forbids);
        })?;
        is_clear.then_some(said)
    }
}

/// One directive, such as `max-age=60`.
struct Directive<'a> {
    text: &'a str,
    name: &'a str,
    argument: Option<&'a str>,
}

impl Directive<'_> {
    /// The argument as a number of seconds. It may be quoted (RFC 9111 §5.2).
    fn seconds(&self) -> Option<Duration> {
        let argument = self.argument?;
        let quoted = argument.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        // In a quoted string, a backslash escapes the character after it (RFC 9110 §5.6.4).
        let digits = quoted.map_or_else(|| argument.to_owned(), |text| text.replace('\\', ""));
        seconds(&digits)
    }
}

/// A number of seconds (RFC 9111 §1.2.2).
fn seconds(digits: &str) -> Option<Duration> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // A number too large for `u64` exceeds the cap as well.
    is_number.then(|| capped(digits.parse().unwrap_or(u64::MAX)))
}

fn capped(seconds: u64) -> Duration {
    Duration::from_secs(seconds.min(MOST_SECONDS))
}

/// Calls `see` with each directive of all `Cache-Control` lines, whose elements may be empty (RFC 9111 §5.2, RFC 9110
/// §5.6.1.2). `None`: one is malformed.
fn each(headers: &HeaderMap, mut see: impl FnMut(Directive<'_>)) -> Option<()> {
    for line in headers.get_all(CACHE_CONTROL) {
        let mut rest = line.to_str().ok()?.trim_ascii();
        while !rest.is_empty() {
            if let Some(next) = rest.strip_prefix(',') {
                rest = next.trim_ascii_start();
                continue;
            }
            let (name, after) = token(rest)?;
            let (argument, after) = match after.strip_prefix('=') {
                None => (None, after),
                Some(argument) => {
                    let end = match argument.strip_prefix('"') {
                        Some(text) => quoted_end(text)? + 1,
                        None => token(argument)?.0.len(),
                    };
                    (Some(&argument[..end]), &argument[end..])
                }
            };
            see(Directive { text: &rest[..rest.len() - after.len()], name, argument });
            rest = after.trim_ascii_start();
            if !rest.is_empty() && !rest.starts_with(',') {
                return None;
            }
        }
    }
    Some(())
}

/// Splits a token (RFC 9110 §5.6.2) from the rest of the text.
fn token(text: &str) -> Option<(&str, &str)> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let end = text.bytes().position(|byte| !is_part(byte)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// The end of a quoted string, after its closing quote (RFC 9110 §5.6.4).
fn quoted_end(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    for (place, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return Some(place + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn said(lines: &[&str]) -> Option<Directives> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, line.parse().unwrap());
        }
        Directives::of(&headers)
    }

    fn max_age(seconds: u64) -> Directives {
        let max_age = Some(Duration::from_secs(seconds));
        Directives { max_age, ..Directives::default() }
    }

    #[test]
    fn the_whole_grammar_of_rfc_9111_is_read() {
        for (lines, seconds) in [
            (&["max-age=60"][..], 60),
            (&["MAX-AGE=60"], 60),
            (&["max-age=060"], 60),
            (&["max-age=\"60\""], 60),
            (&["max-age=\"6\\0\""], 60),
            (&["max-age=60, max-age=60"], 60),
            (&[", ,max-age=60 ,\t,"], 60),
            (&["public", "max-age=60"], 60),
            (&["x=\"a, no-store, \\\", private\", max-age=60"], 60),
            (&["no-storefoo, x-no-store, community=\"UCI\", max-age=60"], 60),
            (&["max-age=99999999999999999999999"], MOST_SECONDS),
        ] {
            assert_eq!(said(lines), Some(max_age(seconds)), "{lines:?}");
        }
        assert_eq!(said(&[]), Some(Directives::default()));
        assert_eq!(said(&["", ","]), Some(Directives::default()));
    }

    #[test]
    fn what_cannot_be_read_is_told_from_what_says_nothing() {
        for line in [
            "max-age",
            "max-age=",
            "max-age=\"\"",
            "max-age=-1",
            "max-age=1.5",
            "max-age=never",
            "max-age= 60",
            "max-age =60",
            "max-age=60 s",
            "max-age=60;s-maxage=5",
            "max-age=\"60",
            "max-age=\"60\"0",
            "=60",
            "\"max-age\"=60",
            "max-age=60, max-age=61",
            "a b",
            "a=\"\\\"",
            "s-maxage=x",
            "stale-if-error=x",
            "(a)",
            "max-age:60",
        ] {
            assert_eq!(said(&[line]), None, "{line}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_bytes(b"max-age=60, \xff").unwrap());
        assert_eq!(Directives::of(&headers), None);
    }

    #[test]
    fn a_clients_limit_changes_the_times_and_nothing_else() {
        for (fields, age, expected) in [
            (&[("cache-control", "public, max-age=600")][..], 0, "public, max-age=30"),
            (&[("cache-control", "public, max-age=600")], 50, "public, max-age=80"),
            (&[("cache-control", "max-age=10, s-maxage=600")], 0, "max-age=10, s-maxage=30"),
            (
                &[("cache-control", "x=\"a, b\""), ("cache-control", "Public")],
                0,
                "x=\"a, b\", Public, max-age=30",
            ),
            (&[("expires", "Thu, 01 Jan 1970 00:00:20 GMT")], 0, "max-age=20"),
            (&[("expires", "Thu, 01 Jan 1970 00:10:00 GMT")], 50, "max-age=80"),
            (&[("expires", "0"), ("cache-control", "max-age=5")], 0, "max-age=5"),
            (&[("cache-control", "a b")], 0, "private, max-age=30"),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, value.parse().unwrap());
            }
            let limited = limited(&headers, SystemTime::UNIX_EPOCH, 120, age, 30);
            assert_eq!(limited, expected, "{fields:?} at {age}");
        }
    }
}
