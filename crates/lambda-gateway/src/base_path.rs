//! The base path before the service's own paths.

use std::fmt;

/// The part of a path before the service's own paths, behind a load balancer, a function URL or another proxy: empty by
/// default, or segments such as `/api` or `/shop/v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BasePath(String);

/// The text is not a valid [`BasePath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidBasePath;

impl BasePath {
    /// Parses a base path. Segments may contain letters, digits, `-`, `.`, `_` and `~`, which no gateway encodes (RFC
    /// 3986 §2.3).
    pub fn parse(text: &str) -> Result<Self, InvalidBasePath> {
        let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let is_segment = |segment: &str| {
            !matches!(segment, "" | "." | "..") && segment.bytes().all(is_unreserved)
        };
        let segments = text.strip_prefix('/').ok_or(InvalidBasePath)?;
        if segments.split('/').all(is_segment) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidBasePath)
        }
    }

    /// Removes the base path from a longer path that begins with it.
    pub(crate) fn strip(&self, path: &mut String) {
        if path.strip_prefix(&self.0).is_some_and(|rest| rest.starts_with('/')) {
            path.drain(..self.0.len());
        }
    }
}

impl fmt::Display for InvalidBasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a path without a slash at its end, of ASCII letters, digits and - . _ ~, such as /api or /shop/v1",
        )
    }
}

impl std::error::Error for InvalidBasePath {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_segments_are_accepted() {
        for text in ["/api", "/shop/v1", "/a-b_c.d~e"] {
            assert_eq!(BasePath::parse(text).unwrap().0, text);
        }
        for text in
            ["", "/", "api", "/api/", "//api", "/a b", "/a%20b", "/é", "/..", "/a/./b", "/a?b"]
        {
            assert_eq!(BasePath::parse(text), Err(InvalidBasePath), "{text}");
        }
    }
}
