//! A name that CloudWatch accepts.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A metric namespace or the value of a dimension.
///
/// CloudWatch accepts it for both. CloudWatch also allows spaces and longer names, but a label is in every line, and
/// the namespace is in it twice. With up to 20 characters for both, the line of any request is shorter than 1,100
/// bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label(String);

/// The text is not a valid [`Label`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "1 to {} characters out of A-Z a-z 0-9 . - _ / # :, the first no colon and none of AWS's own (AWS/…)",
    Label::MAX_LENGTH
)]
pub struct InvalidLabel;

impl Label {
    /// The most characters of a label: as many as the name of a CloudFormation stack may have.
    pub const MAX_LENGTH: usize = 128;

    /// The label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = InvalidLabel;

    fn from_str(text: &str) -> Result<Self, InvalidLabel> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_/#:".contains(&byte);
        let is_valid = (1..=Self::MAX_LENGTH).contains(&text.len())
            && text.bytes().all(is_allowed)
            && !text.starts_with(':')
            && !text.starts_with("AWS/");
        is_valid.then(|| Self(text.to_owned())).ok_or(InvalidLabel)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_what_cloudwatch_takes() {
        let longest = "x".repeat(Label::MAX_LENGTH);
        for good in ["users", "ResponseBoost", "Team/Users:v2", "a#b_c-d.e", &longest] {
            assert_eq!(good.parse::<Label>().unwrap().as_str(), good);
        }
        let too_long = "x".repeat(Label::MAX_LENGTH + 1);
        for bad in ["", " ", "a b", ":a", "AWS/Lambda", "é", "a\"b", "a\n", &too_long] {
            assert_eq!(bad.parse::<Label>(), Err(InvalidLabel), "{bad}");
        }
    }
}
