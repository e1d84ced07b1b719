//! Cache keys and namespaces.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Uri};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The first part of every key, which lets several functions share one Redis.
///
/// It has 1 to 64 characters from `A-Z a-z 0-9 . _ : -`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace(String);

/// Why a [`Namespace`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("1 to 64 characters out of A-Z a-z 0-9 . _ : -")]
pub struct InvalidNamespace;

/// A key of the cache: `<namespace>:<part>:<part>…`, such as `users:user:1`.
///
/// In the parts, `:` `%` `{` `}` and everything that is not printable ASCII is percent-escaped. Different lists of
/// parts therefore never produce the same key, and a part cannot choose the slot of a Redis cluster by a hash tag.
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
/// Everything that a response depends on belongs in its key, because the layer looks at nothing else: if responses
/// differ by caller, put the caller in the key. The usual case takes a line:
///
/// ```
/// use http::Request;
/// use http::header::{ACCEPT_LANGUAGE, AUTHORIZATION};
/// use response_boost::{CacheKey, Namespace};
///
/// fn key_of(shop: &Namespace, request: &Request<()>) -> CacheKey {
///     shop.path_key(request.uri())
///         .with_query(request.uri(), &["page", "sort"])
///         .with_header(request.headers(), &ACCEPT_LANGUAGE)
///         .with_secret_header(request.headers(), &AUTHORIZATION)
/// }
///
/// let request = Request::get("/shoes?sort=price&utm_source=mail&page=2")
///     .header(ACCEPT_LANGUAGE, "de")
///     .header(AUTHORIZATION, "Bearer 1234")
///     .body(())?;
/// assert_eq!(
///     key_of(&Namespace::parse("shop")?, &request).as_str(),
///     "shop:path:/shoes:?page=2&sort=price:accept-language=de:authorization=#cd62a802327182307a814193508d7f36",
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey(String);

impl Namespace {
    const MAX_LEN: usize = 64;
    const ROOM_FOR_PARTS: usize = 32;

    /// Parses a namespace.
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

    /// The key for these parts in this namespace.
    pub fn key<P: AsRef<str>>(&self, parts: impl IntoIterator<Item = P>) -> CacheKey {
        // Most keys fit, so they are allocated once.
        let mut key = String::with_capacity(self.0.len() + Self::ROOM_FOR_PARTS);
        key.push_str(&self.0);
        parts.into_iter().fold(CacheKey(key), |key, part| key.with_part(part.as_ref()))
    }

    /// The key for a path in this namespace, without the query: `<namespace>:path:<path>`, the same as `key(["path",
    /// uri.path()])`.
    ///
    /// The path counts byte for byte (apart from the key's escapes), so two spellings of one path have two entries.
    #[must_use]
    pub fn path_key(&self, uri: &Uri) -> CacheKey {
        self.key(["path", uri.path()])
    }
}

impl CacheKey {
    /// Adds a part to this key.
    #[must_use]
    pub fn with_part(self, part: &str) -> Self {
        // `refresh` as a last part is reserved for the key beside an entry: see `refresh`.
        if part == REFRESH { self.with_raw("%72efresh") } else { self.with_bytes(part.as_bytes()) }
    }

    /// Adds the named query parameters, sorted by name, as the part `?a=1&b=2`.
    ///
    /// The cache drops all other parameters, so that a tracker's `utm_source` does not create another entry: **name
    /// every parameter that the service reads.** Values count byte for byte, and repeated parameters keep their order.
    /// Names are decoded first (`%70age` and `page` are the same, as they are for the service). A parameter that
    /// contains `;`, which some services treat as a separator, always counts.
    #[must_use]
    pub fn with_query(self, uri: &Uri, names: &[&str]) -> Self {
        let pairs = uri.query().unwrap_or_default().split('&');
        let mut chosen: Vec<(Cow<'_, [u8]>, &str)> = pairs
            .map(|pair| (decoded(pair.split('=').next().unwrap_or_default()), pair))
            .filter(|(name, pair)| {
                names.iter().any(|named| named.as_bytes() == &**name) || pair.contains(';')
            })
            .collect();
        // Stable: values of one name stay in their order.
        chosen.sort_by(|one, other| one.0.cmp(&other.0));
        let mut part = b"?".to_vec();
        for (place, (name, pair)) in chosen.into_iter().enumerate() {
            if place > 0 {
                part.push(b'&');
            }
            part.extend(name.iter().flat_map(|&byte| match byte {
                b'&' | b'=' | b'%' => format!("%{byte:02X}").into_bytes(),
                byte => vec![byte],
            }));
            part.extend(pair.find('=').map_or(&[][..], |at| &pair.as_bytes()[at..]));
        }
        self.with_bytes(&part)
    }

    /// Adds the value of a header field, as the part `name=value`, or `name` if the request has no such field.
    ///
    /// Several lines of one field are joined by commas (RFC 9110 §5.3). As everywhere in a key, bytes that are not
    /// printable ASCII are escaped. Pass the same names to
    /// [`Policy::with_key_headers`](crate::Policy::with_key_headers).
    #[must_use]
    pub fn with_header(self, headers: &HeaderMap, name: &HeaderName) -> Self {
        let mut part = name.as_str().as_bytes().to_vec();
        if let Some(value) = joined(headers, name) {
            part.push(b'=');
            part.extend(value);
        }
        self.with_bytes(&part)
    }

    /// Adds the hash of a header field's value, for a field that holds a secret, such as `Authorization` or `Cookie`:
    /// the part `name=#<hash>`, by [`with_secret`](Self::with_secret).
    #[must_use]
    pub fn with_secret_header(self, headers: &HeaderMap, name: &HeaderName) -> Self {
        match joined(headers, name) {
            Some(value) => self.with_secret(name.as_str(), value),
            None => self.with_bytes(name.as_str().as_bytes()),
        }
    }

    /// Adds a hash of a secret, the first 128 bits of its SHA-256 in hex: the part `name=#<32 digits>`.
    ///
    /// Neither the store nor a log ever sees the secret. Whoever can read keys can still guess a weak secret, such as a
    /// short number.
    #[must_use]
    pub fn with_secret(self, name: &str, secret: impl AsRef<[u8]>) -> Self {
        let hash = &hex(secret.as_ref())[..SECRET_DIGITS];
        self.with_bytes(format!("{name}=#{hash}").as_bytes())
    }

    /// Adds the SHA-256 of a request body, as the part `body=#<64 digits>`, for a method that
    /// [`Policy::with_method`](crate::Policy::with_method) lets through. It uses the whole hash, because a caller
    /// chooses the body and could look for a collision.
    ///
    /// ```
    /// use response_boost::Namespace;
    ///
    /// let searches = Namespace::parse("searches")?;
    /// let key = searches.key(["by-body"]).with_body(br#"{"color":"red"}"#);
    /// assert!(key.as_str().starts_with("searches:by-body:body=#"));
    /// # Ok::<(), response_boost::InvalidNamespace>(())
    /// ```
    #[must_use]
    pub fn with_body(self, body: impl AsRef<[u8]>) -> Self {
        self.with_bytes(format!("body=#{}", hex(body.as_ref())).as_bytes())
    }

    fn with_bytes(mut self, part: &[u8]) -> Self {
        self.0.push(':');
        escape_into(&mut self.0, part);
        self
    }

    /// A key that does not consist of escaped parts alone, such as the key of a tag.
    pub(crate) fn from_raw(key: String) -> Self {
        Self(key)
    }

    /// Adds an escaped part to such a key.
    pub(crate) fn escape(key: &mut String, part: &str) {
        key.push(':');
        escape_into(key, part.as_bytes());
    }

    fn with_raw(mut self, part: &str) -> Self {
        self.0.push(':');
        self.0.push_str(part);
        self
    }

    /// The key beside this one that announces a refresh: `<key>:refresh`. No entry can have this key.
    pub(crate) fn refresh(&self) -> Self {
        self.clone().with_raw(REFRESH)
    }

    /// The key as the store sees it.
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

/// How many hex digits of a secret's hash a key contains.
const SECRET_DIGITS: usize = 32;

fn escape_into(key: &mut String, part: &[u8]) {
    for &byte in part {
        if byte.is_ascii_graphic() && !b":%{}".contains(&byte) {
            key.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(key, "%{byte:02X}");
        }
    }
}

/// Decodes the name of a query parameter as forms encode it: `+` is a space, and `%70` is a `p`.
fn decoded(name: &str) -> Cow<'_, [u8]> {
    if !name.contains(['%', '+']) {
        return Cow::Borrowed(name.as_bytes());
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut rest, mut plain) = (name.as_bytes(), Vec::with_capacity(name.len()));
    while let [byte, after @ ..] = rest {
        let escaped = match (byte, after) {
            (b'%', [high, low, ..]) => digit(*high).zip(digit(*low)),
            _ => None,
        };
        if let Some((high, low)) = escaped {
            plain.push(high << 4 | low);
            rest = &after[2..];
        } else {
            plain.push(if *byte == b'+' { b' ' } else { *byte });
            rest = after;
        }
    }
    Cow::Owned(plain)
}

/// All lines of a field, joined; `None` if the request has none.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let lines: Vec<_> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    (!lines.is_empty()).then(|| lines.join(&b','))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
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

    fn of_query(uri: &str) -> String {
        let uri: Uri = uri.parse().unwrap();
        let key = Namespace::parse("shop").unwrap().path_key(&uri);
        key.with_query(&uri, &["page", "sort", "a b"]).as_str().replace("shop:path:/:", "")
    }

    #[test]
    fn a_query_counts_by_its_named_parameters_sorted() {
        for (uri, part) in [
            ("/", "?"),
            ("/?", "?"),
            ("/?utm_source=mail&fbclid=1", "?"),
            ("/?sort=price&page=2", "?page=2&sort=price"),
            ("/?page=2&sort=price", "?page=2&sort=price"),
            ("/?page=2&x=1&page=1", "?page=2&page=1"),
            ("/?page", "?page"),
            ("/?page=", "?page="),
            ("/?page==", "?page=="),
            ("/?page=a=b", "?page=a=b"),
            // The name is decoded; the value is not.
            ("/?%70age=2", "?page=2"),
            ("/?%70%61%67%65=%32", "?page=%2532"),
            ("/?a+b=1&a%20b=2", "?a%20b=1&a%20b=2"),
            ("/?page%=2&%=1&%7=1&%zz=1", "?"),
            ("/?Page=2", "?"),
            // Some services treat `;` as a separator.
            ("/?utm=1;page=2", "?utm=1;page=2"),
            ("/?page=1;x", "?page=1;x"),
        ] {
            assert_eq!(of_query(uri), part, "{uri}");
        }
    }

    #[test]
    fn different_values_never_share_a_key() {
        let all = [
            "/",
            "/?page",
            "/?page=",
            "/?page=1",
            "/?page=1&page=2",
            "/?page=2&page=1",
            "/?page=1%26page=2",
            "/?page=1%2526page=2",
            "/?sort=1",
            "/?page=1&sort=",
            "/?page=1;x",
            "/?x=1;page=1",
            "/?a+b=1",
            "/?page=%31",
        ];
        let keys: std::collections::HashSet<_> = all.into_iter().map(of_query).collect();
        assert_eq!(keys.len(), all.len());
    }

    fn of_header(lines: &[&[u8]]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            let value = HeaderValue::from_bytes(line).unwrap();
            headers.append(http::header::ACCEPT_LANGUAGE, value);
        }
        let key = Namespace::parse("t").unwrap().key(["x"]);
        let name = http::header::ACCEPT_LANGUAGE;
        let secret = key.clone().with_secret_header(&headers, &name);
        assert_eq!(secret.as_str().contains("=#"), !lines.is_empty());
        key.with_header(&headers, &name).as_str().replace("t:x:accept-language", "")
    }

    #[test]
    fn a_field_counts_as_it_stands_whatever_its_bytes() {
        for (lines, part) in [
            (&[][..], ""),
            (&[&b""[..]], "="),
            (&[b"de"], "=de"),
            (&[b"de, en;q=0.5"], "=de,%20en;q=0.5"),
            (&[b"de", b"en"], "=de,en"),
            (&[b"\xff\xfe:{\t}"], "=%FF%FE%3A%7B%09%7D"),
            ("ü".as_bytes().chunks(2).collect::<Vec<_>>().leak(), "=%C3%BC"),
        ] {
            assert_eq!(of_header(lines), part);
        }
    }

    #[test]
    fn a_secret_is_told_from_others_and_never_shown() {
        let key = Namespace::parse("t").unwrap().key(["x"]);
        let (one, other) =
            (key.clone().with_secret("token", "s3cret"), key.with_secret("token", "S3cret"));
        assert_ne!(one, other);
        // As `printf s3cret | sha256sum` begins.
        assert_eq!(one.as_str(), "t:x:token=#1ec1c26b50d5d3c58d9583181af80766");
    }

    #[test]
    fn a_body_counts_by_all_of_its_hash() {
        let key = Namespace::parse("t").unwrap().key(["x"]).with_body("");
        let hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(key.as_str(), format!("t:x:body=#{hash}"));
    }

    #[test]
    fn a_part_that_is_added_is_like_one_of_the_list() {
        let namespace = Namespace::parse("t").unwrap();
        for parts in [["a", "b"], ["a", "refresh"], ["refresh", "b:c"]] {
            let [first, second] = parts;
            assert_eq!(namespace.key([first]).with_part(second), namespace.key(parts));
        }
    }
}
