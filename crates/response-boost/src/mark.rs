//! What a key may hold instead of an entry: the token of a lease, a pass, or a failure.
//!
//! Each is readable in `redis-cli`. A pass and a failure contain the time of their creation, because a key can lose its
//! TTL by a `PERSIST` or a restore.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use uuid::Uuid;

use crate::NotStored;
use crate::clock::whole_ms;

/// How long to remember a failed load, or a response that is not stored this time: long enough for waiting requests to
/// see it.
pub(crate) const SHORT_LIFE: Duration = Duration::from_secs(1);
/// How long to remember that the response under a key is never stored, because its headers forbid it or it is too
/// large. The next one is probably alike. (Varnish calls this hit-for-miss, and remembers it for two minutes.)
pub(crate) const LONG_LIFE: Duration = Duration::from_mins(1);

/// How long to remember that a response was not stored for this reason.
///
/// The status may change at any moment, so an uncacheable status is remembered briefly. A response with a cacheable
/// status that is still not stored will probably be the same next time.
pub(crate) fn life_of(why: NotStored) -> Duration {
    match why {
        NotStored::Status | NotStored::BrokeOff | NotStored::SlowLoad => SHORT_LIFE,
        _ => LONG_LIFE,
    }
}

const LEASE: &[u8] = b"lease:";
const PASS: &[u8] = b"pass:";
const FAILED: &[u8] = b"failed:";
/// A token's id in hex.
const ID_BYTES: usize = 32;

/// A new, unique token: `lease:6f1c…`.
pub(crate) fn new_token() -> Bytes {
    [LEASE, Uuid::new_v4().simple().to_string().as_bytes()].concat().into()
}

/// The same token with a renewal counter, so that the value differs from the last one: `lease:6f1c…:3`.
pub(crate) fn renewed(token: &Bytes, renewals: u32) -> Bytes {
    [&token[..], b":", renewals.to_string().as_bytes()].concat().into()
}

/// The token of a lease, without the renewal counter.
pub(crate) fn token_of(value: &Bytes) -> Option<Bytes> {
    let id = value.strip_prefix(LEASE)?;
    let (id, sign) = id.split_at_checked(ID_BYTES)?;
    let is_number = |number: &[u8]| number.iter().all(u8::is_ascii_digit);
    let is_token = id.iter().all(u8::is_ascii_hexdigit)
        && (sign.is_empty() || sign.strip_prefix(b":").is_some_and(is_number));
    is_token.then(|| value.slice(..LEASE.len() + ID_BYTES))
}

/// A pass: the holder of a lease had nothing to store. Requests load for themselves and store nothing.
pub(crate) fn new_pass(now_ms: u64) -> Bytes {
    [PASS, now_ms.to_string().as_bytes()].concat().into()
}

/// Whether this is a pass that is still valid.
pub(crate) fn is_pass(value: &[u8], now_ms: u64) -> bool {
    value.strip_prefix(PASS).is_some_and(|made_at| is_recent(made_at, now_ms, LONG_LIFE))
}

/// A failure: a refresh failed, with this status if the service responded. Requests serve the stale entry.
pub(crate) fn new_failure(status: Option<StatusCode>, now_ms: u64) -> Bytes {
    let status = status.map_or(0, |status| status.as_u16());
    [FAILED, now_ms.to_string().as_bytes(), b":", status.to_string().as_bytes()].concat().into()
}

/// The status that a failure records. The outer `None`: not a failure, or no longer valid.
#[expect(clippy::option_option, reason = "whether it is one, and whether it has a status")]
pub(crate) fn failure_of(value: &[u8], now_ms: u64) -> Option<Option<StatusCode>> {
    let (made_at, status) =
        std::str::from_utf8(value.strip_prefix(FAILED)?).ok()?.split_once(':')?;
    let status = status.parse::<u16>().ok()?;
    is_recent(made_at.as_bytes(), now_ms, SHORT_LIFE).then(|| StatusCode::from_u16(status).ok())
}

/// Whether a time is at most `life` ago. Clocks differ, so it allows some skew both ways.
fn is_recent(made_at_ms: &[u8], now_ms: u64, life: Duration) -> bool {
    const SKEW: Duration = Duration::from_secs(5);
    let made_at_ms = std::str::from_utf8(made_at_ms).ok().and_then(|time| time.parse::<u64>().ok());
    made_at_ms.is_some_and(|time| now_ms.abs_diff(time) <= whole_ms(life + SKEW))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_780_000_000_000;

    #[test]
    fn a_token_is_like_no_other_and_no_entry() {
        let (one, other) = (new_token(), new_token());
        assert_ne!(one, other);
        for value in [&one, &other] {
            assert_eq!(token_of(value).as_ref(), Some(value));
            let key = crate::Namespace::parse("users").unwrap().key(["1"]);
            assert!(crate::Entry::decode(&key, value).is_err());
        }
        let longer = [&one[..], b"0"].concat();
        let unsigned = [&one[..], b":x"].concat();
        for value in [
            &b"lease:"[..],
            b"lease:another's",
            b"pass:1",
            b"",
            &one[1..],
            &one[..37],
            &longer,
            &unsigned,
        ] {
            assert_eq!(token_of(&Bytes::copy_from_slice(value)), None, "{value:?}");
        }
    }

    #[test]
    fn a_renewed_token_is_the_same_token_and_another_value() {
        let token = new_token();
        let (first, second) = (renewed(&token, 1), renewed(&token, 2));
        assert_ne!(first, second);
        for value in [&first, &second] {
            assert!(value.starts_with(&token));
            assert_eq!(token_of(value).as_ref(), Some(&token));
        }
    }

    #[test]
    fn a_pass_does_not_hold_for_ever() {
        let pass = new_pass(NOW_MS);
        assert_eq!(pass, "pass:1780000000000");
        for (now_ms, holds) in [
            (NOW_MS, true),
            (NOW_MS + 60_000, true),
            (NOW_MS - 1_000, true),
            (NOW_MS + 65_001, false),
            (0, false),
        ] {
            assert_eq!(is_pass(&pass, now_ms), holds, "{now_ms}");
        }
        for value in [&b"pass"[..], b"pass:", b"pass:x", b"pass:-1", b""] {
            assert!(!is_pass(value, 0), "{value:?}");
        }
    }

    #[test]
    fn a_failure_tells_its_status_and_does_not_hold_for_ever() {
        let failure = new_failure(Some(StatusCode::SERVICE_UNAVAILABLE), NOW_MS);
        assert_eq!(failure, "failed:1780000000000:503");
        let found = Some(Some(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(failure_of(&failure, NOW_MS + 1_000), found);
        assert_eq!(failure_of(&failure, NOW_MS + 6_001), None);
        assert_eq!(failure_of(&new_failure(None, NOW_MS), NOW_MS), Some(None));
        for value in
            [&b"failed:"[..], b"failed:0", b"failed:x:503", b"failed:0:x", b"pass:0", b"\xff"]
        {
            assert_eq!(failure_of(value, 0), None, "{value:?}");
        }
    }
}
