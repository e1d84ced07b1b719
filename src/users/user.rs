//! A user and its id.

use std::fmt;
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A user as the API returns it; the fields are in the order of the response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user's id.
    pub id: UserId,
    /// The display name.
    pub name: String,
    /// The email address.
    pub email: String,
    /// The age in years.
    pub age: u8,
}

/// An integer from 1 to 2⁶³ − 1, so that a signed integer of any database can hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64")]
pub struct UserId(NonZeroU64);

/// Why a [`UserId`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a whole number from 1 to 9223372036854775807, without sign or leading zeros")]
pub struct InvalidUserId;

impl UserId {
    const MAX: u64 = i64::MAX as u64;

    /// Parses an id in its only canonical form, so that each user has one key in the cache.
    pub fn parse(text: &str) -> Result<Self, InvalidUserId> {
        let is_canonical = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse::<u64>().ok().filter(|_| is_canonical);
        number.ok_or(InvalidUserId)?.try_into()
    }

    /// Key parts that identify this user: `user` and the id. A cache that stores responses about users puts them in the
    /// key.
    #[must_use]
    pub fn key_parts(self) -> [String; 2] {
        ["user".to_owned(), self.to_string()]
    }

    /// The id as a number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl TryFrom<u64> for UserId {
    type Error = InvalidUserId;

    fn try_from(number: u64) -> Result<Self, Self::Error> {
        let number = NonZeroU64::new(number).filter(|number| number.get() <= Self::MAX);
        number.map(Self).ok_or(InvalidUserId)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_canonical_positive_number_of_63_bits() {
        for good in ["1", "10", "9223372036854775807"] {
            assert_eq!(UserId::parse(good).unwrap().to_string(), good);
        }
        let digits = "9".repeat(400);
        for bad in [
            "",
            "0",
            "00",
            "01",
            "+1",
            "-1",
            "1.0",
            "1e3",
            "0x1",
            " 1",
            "1 ",
            "１",
            "1\0",
            "a",
            "🦀",
            "%31",
            "1/",
            "..",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            &digits,
        ] {
            assert_eq!(UserId::parse(bad), Err(InvalidUserId), "{bad:?}");
        }
    }

    #[test]
    fn json_holds_the_number_to_the_same_bounds() {
        assert!(serde_json::from_str::<UserId>("1").is_ok());
        for bad in ["0", "-1", "1.5", "9223372036854775808", "\"1\""] {
            assert!(serde_json::from_str::<UserId>(bad).is_err(), "{bad}");
        }
    }
}
