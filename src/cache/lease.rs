//! The right to fill a key: a token that stands in the place of the value until that is there.
//!
//! Leases are those of Memcache at Facebook (Nishtala et al., NSDI '13, §3.2.1). Who finds nothing
//! under a key puts a token there, loads, and replaces the token, and only the token, by the answer.
//! Who meets another's token waits for what will take its place. An invalidation removes whatever is
//! there: a fill that comes after it finds its token gone, and with it what it was about to keep,
//! which may have been read before the change.

use bytes::Bytes;
use uuid::Uuid;

const LEASE: &[u8] = b"lease:";

/// Stands in the place of a lease whose holder has nothing to keep: load for yourself, keep nothing.
pub(crate) const PASS: Bytes = Bytes::from_static(b"pass");

/// A token of one's own, unlike all others. It reads as `lease:6f1c…` in `redis-cli`.
pub(crate) fn new_token() -> Bytes {
    [LEASE, Uuid::new_v4().simple().to_string().as_bytes()].concat().into()
}

pub(crate) fn is_token(value: &[u8]) -> bool {
    value.starts_with(LEASE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_like_no_other_and_no_entry() {
        let (one, other) = (new_token(), new_token());
        assert_ne!(one, other);
        assert_eq!(one.len(), LEASE.len() + 32);
        for value in [&one, &other] {
            assert!(is_token(value));
            assert!(crate::cache::Entry::decode(value).is_err());
        }
        assert!(!is_token(&PASS) && !is_token(b"{\"version\":1}\n") && !is_token(b""));
    }
}
