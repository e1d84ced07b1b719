//! The right to fill a key: a token that stands in the place of the value until that is there.
//!
//! Leases are those of Memcache at Facebook (Nishtala et al., NSDI '13, §3.2.1). Who finds nothing
//! under a key puts a token there, loads, and replaces the token, and only the token, by the answer.
//! Who meets another's token waits for what will take its place. An invalidation removes whatever is
//! there: a fill that comes after it finds its token gone, and with it what it was about to keep,
//! which may have been read before the change.

use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use crate::clock::whole_ms;

/// How long it stays known that there is nothing to keep: long enough for those who have waited to
/// see it.
pub(crate) const PASS_LIFE: Duration = Duration::from_secs(1);

const LEASE: &[u8] = b"lease:";
const PASS: &[u8] = b"pass:";

/// A token of one's own, unlike all others. It reads as `lease:6f1c…` in `redis-cli`.
pub(crate) fn new_token() -> Bytes {
    [LEASE, Uuid::new_v4().simple().to_string().as_bytes()].concat().into()
}

pub(crate) fn is_token(value: &[u8]) -> bool {
    let id = value.strip_prefix(LEASE);
    id.is_some_and(|id| id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit))
}

/// Stands in the place of a lease whose holder has nothing to keep: load for yourself, keep nothing.
/// It has the time in it, since what is under a key can lose its own end.
pub(crate) fn new_pass(now_ms: u64) -> Bytes {
    [PASS, now_ms.to_string().as_bytes()].concat().into()
}

/// Whether it is a pass that holds. (Clocks differ; what is from the future holds too.)
pub(crate) fn is_pass(value: &[u8], now_ms: u64) -> bool {
    let made_at_ms = value.strip_prefix(PASS).and_then(|time| std::str::from_utf8(time).ok());
    let made_at_ms = made_at_ms.and_then(|time| time.parse::<u64>().ok());
    let longest_ms = 10 * whole_ms(PASS_LIFE);
    made_at_ms.is_some_and(|time| now_ms.abs_diff(time) <= longest_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_like_no_other_and_no_entry() {
        let (one, other) = (new_token(), new_token());
        assert_ne!(one, other);
        for value in [&one, &other] {
            assert!(is_token(value));
            let key = crate::Namespace::parse("users").unwrap().key(["1"]);
            assert!(crate::Entry::decode(&key, value).is_err());
        }
        let longer = [&one[..], b"0"].concat();
        for value in [&b"lease:"[..], b"lease:another's", b"pass:1", b"", &one[1..], &longer] {
            assert!(!is_token(value), "{value:?}");
        }
    }

    #[test]
    fn a_pass_does_not_hold_for_ever() {
        let pass = new_pass(1_780_000_000_000);
        assert_eq!(pass, "pass:1780000000000");
        for (now_ms, holds) in [
            (1_780_000_000_000, true),
            (1_780_000_001_000, true),
            (1_779_999_999_000, true),
            (1_780_000_010_001, false),
            (0, false),
        ] {
            assert_eq!(is_pass(&pass, now_ms), holds, "{now_ms}");
        }
        for value in [&b"pass"[..], b"pass:", b"pass:x", b"pass:-1", b""] {
            assert!(!is_pass(value, 0), "{value:?}");
        }
    }
}
