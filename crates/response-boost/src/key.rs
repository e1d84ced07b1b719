//! What an answer is kept under.

use std::fmt::{self, Write as _};

use thiserror::Error;

/// The first part of every key, so that several functions can share one Redis.
///
/// 1 to 64 characters out of `A-Z a-z 0-9 . _ : -`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace(String);

/// What a [`Namespace`] was refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("1 to 64 characters out of A-Z a-z 0-9 . _ : -")]
pub struct InvalidNamespace;

/// A key of the cache: `<namespace>:<part>:<part>…`, such as `users:user:1`.
///
/// In the parts `:` `%` `{` `}` and everything that is not printable ASCII is percent-escaped, so
/// that two different lists of parts never meet in one key, and no part can pick the slot of a
/// Redis cluster by a hash tag.
///
/// ```
/// use response_boost::Namespace;
///
/// let users = Namespace::parse("users")?;
/// assert_eq!(users.key(["user", "1"]).as_str(), "users:user:1");
/// assert_eq!(users.key(["user", "1:2"]).as_str(), "users:user:1%3A2");
/// # Ok::<(), response_boost::InvalidNamespace>(())
/// ```
///
/// Everything an answer depends on belongs into its key. The layer looks at nothing else: if the
/// answers differ by caller, put the caller in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey(String);

impl Namespace {
    const MAX_LEN: usize = 64;

    /// Checks a namespace.
    pub fn parse(text: &str) -> Result<Self, InvalidNamespace> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        if (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidNamespace)
        }
    }

    /// The namespace as it stands in keys.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of these parts in this namespace.
    pub fn key<P: AsRef<str>>(&self, parts: impl IntoIterator<Item = P>) -> CacheKey {
        let mut key = self.0.clone();
        for part in parts {
            key.push(':');
            match part.as_ref() {
                // What stands beside a key ends so: see `beside`.
                REFRESH => key.push_str("%72efresh"),
                part => escape_into(&mut key, part),
            }
        }
        CacheKey(key)
    }
}

impl CacheKey {
    /// The key beside this one by which a refresh is announced: `<key>:refresh`. No answer has it.
    pub(crate) fn refresh(&self) -> Self {
        Self(format!("{}:{REFRESH}", self.0))
    }

    /// The key as Redis has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const REFRESH: &str = "refresh";

fn escape_into(key: &mut String, part: &str) {
    for byte in part.bytes() {
        if byte.is_ascii_graphic() && !b":%{}".contains(&byte) {
            key.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(key, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: &[&str]) -> String {
        Namespace::parse("users").unwrap().key(parts).to_string()
    }

    #[test]
    fn a_namespace_is_1_to_64_harmless_characters() {
        for good in ["users", "a", "A-z.0_9:x", &"n".repeat(64)] {
            assert_eq!(Namespace::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", " ", "users ", "üsers", "users{1}", "users%", "a\nb", &"n".repeat(65)] {
            assert_eq!(Namespace::parse(bad), Err(InvalidNamespace), "{bad:?}");
        }
    }

    #[test]
    fn parts_are_joined_by_colons() {
        assert_eq!(key(&["user", "1"]), "users:user:1");
    }

    #[test]
    fn what_could_be_mistaken_is_escaped() {
        assert_eq!(key(&["user", "a:b%{c} d\u{e9}\0"]), "users:user:a%3Ab%25%7Bc%7D%20d%C3%A9%00");
    }

    #[test]
    fn no_key_is_the_one_beside_another() {
        let beside = Namespace::parse("users").unwrap().key(["user", "1"]).refresh();
        assert_eq!(beside.as_str(), "users:user:1:refresh");
        assert_eq!(key(&["user", "1", "refresh"]), "users:user:1:%72efresh");
        assert_eq!(key(&["user", "refreshed"]), "users:user:refreshed");
    }

    #[test]
    fn different_parts_never_share_a_key() {
        let lists: [&[&str]; 9] = [
            &["user", "1"],
            &["user:1"],
            &["user", "1", ""],
            &["user", "", "1"],
            &["user%3A1"],
            &["user", "%31"],
            &["user", "１"],
            &["{user}", "1"],
            &["user", " 1"],
        ];
        let keys: std::collections::HashSet<String> = lists.into_iter().map(key).collect();
        assert_eq!(keys.len(), lists.len());
    }
}
