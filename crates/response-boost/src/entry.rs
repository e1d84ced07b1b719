//! A stored response: one line of JSON metadata, `\n`, the body byte for byte.
//!
//! ```text
//! {"version":2,"id":"6f1c…","key":"a3c9…","status":200,"headers":[["content-type","application/json"]],"etag":"b5ab…","load_started_at_ms":1780000000000,"load_cost_ms":3,"ttl_ms":120000,"body_bytes":61}
//! {"id":1,"name":"Manas","email":"manas@example.com","age":25}
//! ```
//!
//! It is readable in `redis-cli`, and a hit slices the body out without parsing it.
//!
//! The line of an entry with [tags](crate::Tag) also has their keys and ids before `body_bytes`:
//! `"tags":[["users:%tag:team-7","6f1c…"]]`.
//!
//! Processes of two releases read each other's entries. So a change of this format needs a new [`VERSION`], which may
//! be written one release after it can first be read. A reader treats an unknown version as a miss.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    AGE, CONNECTION, CONTENT_LENGTH, DATE, EXPIRES, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Response, StatusCode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

use crate::clock::whole_ms;
use crate::stamps::{self, Stamp};
use crate::{CacheKey, Policy};

/// The version that is written. It includes the key's hash; version 1, which is still read, does not.
pub(crate) const VERSION: u32 = 2;
const VERSION_WITHOUT_KEY: u32 = 1;

/// Fields that are not stored: the one that the layer sets on each response (`Age`), and those that belong to one
/// connection or one message (RFC 9111 §3.1, RFC 9110 §7.6.1). `Date` is stored if the response has `Expires`.
const NOT_KEPT: [HeaderName; 12] = [
    AGE,
    CONNECTION,
    CONTENT_LENGTH,
    DATE,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// How many headers the layer adds to those of an entry: `ETag`, `Cache-Control`, `Age`, `Cache-Status`.
const ADDED_HEADERS: usize = 4;

/// One stored response, with what the cache needs to serve it again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Unique to this load of this key.
    pub id: String,
    /// 200, or another status that the policy stores.
    pub status: StatusCode,
    /// The response headers that hold for every use of it.
    pub headers: HeaderMap,
    /// The first 128 bits of the body's SHA-256, in hex: the same in every process, and the start of what `sha256sum`
    /// prints for the value after its first line. It is the validator of a response whose [`headers`](Self::headers)
    /// have no `ETag`.
    pub etag: String,
    /// When its load began, in milliseconds since the Unix epoch.
    pub load_started_at_ms: u64,
    /// How long its load took.
    pub load_cost: Duration,
    /// How long it is fresh, counted from the start of its load.
    pub ttl: Duration,
    /// The response's body.
    pub body: Bytes,
    /// Its tags, with the ids that they had when its load began.
    pub(crate) stamps: Vec<Stamp>,
}

/// Why bytes are not an [`Entry`]. No variant shows any of the bytes.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes have no metadata line.
    #[error("no metadata line")]
    NoMetadata,
    /// The first line is not valid metadata of this version.
    #[error("malformed metadata")]
    Metadata(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The version is unknown to this release.
    #[error("unknown version {0}")]
    Version(u32),
    /// The entry belongs to another key: it was copied or renamed.
    #[error("an entry of another key")]
    OtherKey,
    /// The value does not deserialize into the requested type, because another release of the type wrote it.
    #[error("a value of another form")]
    Value,
    /// A tag is malformed: its key is not that of a tag, or its id is malformed.
    #[error("a malformed tag")]
    Tag,
    /// The status is never stored, or a header is malformed.
    #[error("metadata of no answer that is kept")]
    NotHttp,
    /// The body is truncated, or has extra bytes.
    #[error("a body of {found} bytes where the metadata says {expected}")]
    BodyLength {
        /// The length in the metadata.
        expected: usize,
        /// The actual length.
        found: usize,
    },
}

#[derive(Serialize, Deserialize)]
struct Metadata<'a> {
    version: u32,
    id: &'a str,
    #[serde(default)]
    key: &'a str,
    status: u16,
    #[serde(borrow)]
    headers: Vec<(&'a str, std::borrow::Cow<'a, str>)>,
    etag: &'a str,
    load_started_at_ms: u64,
    load_cost_ms: u64,
    ttl_ms: u64,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<(std::borrow::Cow<'a, str>, &'a str)>,
    body_bytes: usize,
}

/// Joins a line of metadata and the content.
pub(crate) fn join(metadata: &impl Serialize, content: &[u8]) -> Bytes {
    // Strings and numbers always serialize; an empty line would be a miss, not a wrong response.
    let mut bytes = serde_json::to_vec(metadata).unwrap_or_default();
    bytes.reserve_exact(1 + content.len());
    bytes.push(b'\n');
    bytes.extend_from_slice(content);
    bytes.into()
}

/// Splits what [`join`] has joined.
pub(crate) fn split(bytes: &Bytes) -> Result<(&str, Bytes), DecodeError> {
    let line_end = bytes.iter().position(|&byte| byte == b'\n').ok_or(DecodeError::NoMetadata)?;
    // Checked as a whole, which is faster than each of its strings by itself.
    let line = std::str::from_utf8(&bytes[..line_end]);
    let line = line.map_err(|error| DecodeError::Metadata(error.into()))?;
    Ok((line, bytes.slice(line_end + 1..)))
}

/// The field that all versions have.
#[derive(Deserialize)]
pub(crate) struct AnyVersion {
    pub(crate) version: u32,
}

impl Entry {
    /// Creates the entry of a response that was just loaded. All header values must be text.
    pub(crate) fn of_response(
        response: Response<Bytes>,
        load_started_at_ms: u64,
        load_cost: Duration,
        ttl: Duration,
    ) -> Self {
        let (parts, body) = response.into_parts();
        let mut headers = parts.headers;
        for name in named_by_connection(&headers) {
            headers.remove(name);
        }
        // `Expires` is relative to it (RFC 9111 §4.2.1).
        let date = headers.get(DATE).filter(|_| headers.contains_key(EXPIRES)).cloned();
        for name in &NOT_KEPT {
            headers.remove(name);
        }
        if let Some(date) = date {
            headers.insert(DATE, date);
        }
        Self {
            id: Uuid::new_v4().simple().to_string(),
            status: parts.status,
            headers,
            etag: strong_etag(&body),
            load_started_at_ms,
            load_cost,
            ttl,
            body,
            stamps: Vec::new(),
        }
    }

    /// Encodes the entry for this key.
    pub(crate) fn encode(&self, key: &CacheKey) -> Bytes {
        let key = key_hash(key);
        let metadata = Metadata {
            version: VERSION,
            id: &self.id,
            key: &key,
            status: self.status.as_u16(),
            headers: self
                .headers
                .iter()
                // All values are text: see `freshness::ttl_of`.
                .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?.into())))
                .collect(),
            etag: &self.etag,
            load_started_at_ms: self.load_started_at_ms,
            load_cost_ms: whole_ms(self.load_cost),
            ttl_ms: whole_ms(self.ttl),
            tags: stamps::written(&self.stamps),
            body_bytes: self.body.len(),
        };
        join(&metadata, &self.body)
    }

    /// Decodes the entry of this key; the body is a slice of `bytes`.
    ///
    /// It accepts any bytes without a panic, and the error shows none of them.
    pub fn decode(key: &CacheKey, bytes: &Bytes) -> Result<Self, DecodeError> {
        let (line, body) = split(bytes)?;
        let metadata: Metadata<'_> = match serde_json::from_str(line) {
            Ok(Metadata { version: VERSION, key: written_for, .. })
                if !is_key_hash(written_for, key) =>
            {
                return Err(DecodeError::OtherKey);
            }
            Ok(metadata @ Metadata { version: VERSION | VERSION_WITHOUT_KEY, .. }) => metadata,
            Ok(Metadata { version, .. }) => return Err(DecodeError::Version(version)),
            Err(error) => {
                return Err(match serde_json::from_str(line) {
                    Ok(AnyVersion { version })
                        if ![VERSION, VERSION_WITHOUT_KEY].contains(&version) =>
                    {
                        DecodeError::Version(version)
                    }
                    _ => DecodeError::Metadata(error.into()),
                });
            }
        };
        if metadata.body_bytes != body.len() {
            return Err(DecodeError::BodyLength {
                expected: metadata.body_bytes,
                found: body.len(),
            });
        }
        // No other status is ever stored, and a service may rely on that.
        let status = StatusCode::from_u16(metadata.status).ok();
        let status = status.filter(|status| Policy::may_store(*status));
        let status = status.ok_or(DecodeError::NotHttp)?;
        // Reserves room for the headers that the layer adds, because each growth would rehash all of them.
        let room = metadata.headers.len().saturating_add(ADDED_HEADERS);
        let headers = HeaderMap::try_with_capacity(room);
        let mut headers = headers.map_err(|_| DecodeError::NotHttp)?;
        for (name, value) in metadata.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| DecodeError::NotHttp)?;
            // A value that is not text is never stored: see `encode`.
            let value = Some(value).filter(|value| value.is_ascii()).ok_or(DecodeError::NotHttp)?;
            let value = HeaderValue::from_str(&value).map_err(|_| DecodeError::NotHttp)?;
            headers.try_append(name, value).map_err(|_| DecodeError::NotHttp)?;
        }
        let entry = Self {
            stamps: stamps::read_from(metadata.tags)?,
            id: metadata.id.to_owned(),
            status,
            headers,
            etag: metadata.etag.to_owned(),
            load_started_at_ms: metadata.load_started_at_ms,
            load_cost: Duration::from_millis(metadata.load_cost_ms),
            ttl: Duration::from_millis(metadata.ttl_ms),
            body,
        };
        // Checked before it becomes a header, because the `headers` crate panics on some values.
        let is_ours =
            entry.etag.len() == 32 && entry.etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_ours { Ok(entry) } else { Err(DecodeError::NotHttp) }
    }

    /// The validator as a header value; `None` if it is malformed.
    pub(crate) fn etag_value(&self) -> Option<HeaderValue> {
        let quoted = ["\"", &self.etag, "\""].concat();
        HeaderValue::from_maybe_shared(Bytes::from(quoted)).ok()
    }
}

fn strong_etag(body: &[u8]) -> String {
    hash(body)
}

/// The fields that `Connection` names, which belong to one connection (RFC 9110 §7.6.1).
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).iter();
    let names = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}

/// A short hash that hides the key, because a key may contain something that a value must not show.
pub(crate) fn key_hash(key: &CacheKey) -> String {
    hash(key.as_str().as_bytes())
}

/// Whether this is the [`key_hash`] of the key. Each hit asks this, so it allocates nothing.
pub(crate) fn is_key_hash(written: &str, key: &CacheKey) -> bool {
    written.bytes().eq(hash_digits(key.as_str().as_bytes()))
}

/// The first 128 bits of the SHA-256, in hex.
fn hash(bytes: &[u8]) -> String {
    hash_digits(bytes).map(char::from).collect()
}

fn hash_digits(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let hash = Sha256::digest(bytes);
    (0..32).map(move |number| {
        let byte = hash[number / 2];
        let digit = if number % 2 == 0 { byte >> 4 } else { byte & 0xf };
        b"0123456789abcdef"[usize::from(digit)]
    })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const BODY: &str = r#"{"id":1,"name":"Manas","email":"manas@example.com","age":25}"#;

    /// The bytes of version 2. Redis has entries like this one while the next release is deployed. If this test fails,
    /// do not change the bytes: give the new format a new version, keep reading this one, and write the new one a
    /// release later.
    const GOLDEN: &str = concat!(
        r#"{"version":2,"id":"00000000000000000000000000000001","#,
        r#""key":"7efd39657c752c5c6033d3d32b3ca5c8","status":200,"#,
        r#""headers":[["content-type","application/json"]],"#,
        r#""etag":"a43ee3cf8af93a7ebee04608a7d6657f","load_started_at_ms":1780000000000,"#,
        r#""load_cost_ms":3,"ttl_ms":120000,"body_bytes":60}"#,
        "\n",
        r#"{"id":1,"name":"Manas","email":"manas@example.com","age":25}"#,
    );

    fn key() -> CacheKey {
        crate::Namespace::parse("users").unwrap().key(["user", "1"])
    }

    fn entry() -> Entry {
        let response = Response::builder()
            .header("content-type", "application/json")
            .body(Bytes::from_static(BODY.as_bytes()))
            .unwrap();
        let ttl = Duration::from_mins(2);
        let mut entry =
            Entry::of_response(response, 1_780_000_000_000, Duration::from_millis(3), ttl);
        entry.id = "00000000000000000000000000000001".to_owned();
        entry
    }

    fn decode(text: &str) -> Result<Entry, DecodeError> {
        Entry::decode(&key(), &Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn the_stored_bytes_are_those_of_version_2() {
        assert_eq!(std::str::from_utf8(&entry().encode(&key())).unwrap(), GOLDEN);
        assert_eq!(decode(GOLDEN).unwrap(), entry());
    }

    #[test]
    fn tags_stand_before_the_length_of_the_body() {
        // A tag may contain any character that a key may contain.
        let tags = concat!(
            r#""tags":[["users:%tag:a\"\\","6f1c7d2e8a9b4c5d8e7f60718293a4b5"],"#,
            r#"["users:%all:3","00000000000000000000000000000000"]],"body_bytes""#,
        );
        let text = GOLDEN.replacen(r#""body_bytes""#, tags, 1);
        let entry = decode(&text).unwrap();
        let stamps: Vec<_> =
            entry.stamps.iter().map(|stamp| (stamp.key.as_str(), stamp.id.as_str())).collect();
        assert_eq!(stamps[0], (r#"users:%tag:a"\"#, "6f1c7d2e8a9b4c5d8e7f60718293a4b5"));
        assert_eq!(stamps[1], ("users:%all:3", "00000000000000000000000000000000"));
        assert_eq!(std::str::from_utf8(&entry.encode(&key())).unwrap(), text);

        for bad in ["users:user:1", "6f1c7d2e8a9b4c5d8e7f60718293a4bx", "6f1c"] {
            let id = if bad.starts_with("6f") { bad } else { "6f1c7d2e8a9b4c5d8e7f60718293a4b5" };
            let tag = if bad.starts_with("6f") { "users:%all" } else { bad };
            let tags = format!(r#""tags":[["{tag}","{id}"]],"body_bytes""#);
            let error = decode(&GOLDEN.replacen(r#""body_bytes""#, &tags, 1)).unwrap_err();
            assert_eq!(error.to_string(), "a malformed tag");
        }
    }

    #[test]
    fn an_entry_of_version_1_is_read_too_and_has_no_key() {
        let start = GOLDEN.find(r#""key""#).unwrap()..GOLDEN.find(r#""status""#).unwrap();
        let mut version_1 = GOLDEN.replacen(r#""version":2"#, r#""version":1"#, 1);
        version_1.replace_range(start, "");
        assert_eq!(decode(&version_1).unwrap(), entry());
    }

    #[test]
    fn an_entry_of_another_key_is_none() {
        let other = crate::Namespace::parse("users").unwrap().key(["user", "2"]);
        let error = Entry::decode(&other, &entry().encode(&key())).unwrap_err();
        assert_eq!(error.to_string(), "an entry of another key");
    }

    #[test]
    fn each_fill_has_an_id_of_its_own() {
        let ids: std::collections::HashSet<String> = (0..1_000)
            .map(|_| {
                let response = Response::new(Bytes::new());
                Entry::of_response(response, 0, Duration::ZERO, Duration::ZERO).id
            })
            .collect();
        assert_eq!(ids.len(), 1_000);
    }

    #[test]
    fn any_body_comes_back_byte_for_byte() {
        for body in [&b""[..], b"\n", b"\0\xff\n{}\n", &vec![7; 100_000]] {
            let entry = Entry { body: Bytes::copy_from_slice(body), ..entry() };
            assert_eq!(Entry::decode(&key(), &entry.encode(&key())).unwrap(), entry);
        }
    }

    #[test]
    fn repeated_and_quoted_headers_come_back() {
        let mut entry = entry();
        entry.headers.append("link", HeaderValue::from_static(r#"<a>; rel="next""#));
        entry.headers.append("link", HeaderValue::from_static("<b>\ttab"));
        assert_eq!(Entry::decode(&key(), &entry.encode(&key())).unwrap(), entry);
    }

    #[test]
    fn what_belongs_to_one_message_is_not_kept() {
        let mut response = Response::builder();
        for name in &NOT_KEPT {
            response = response.header(name, "x");
        }
        let response = response.header("connection", "x-hop, ,X-Other").header("x-hop", "x");
        let response = response.header("x-other", "x");
        let response = response.header("content-language", "en").body(Bytes::new()).unwrap();
        let entry = Entry::of_response(response, 0, Duration::ZERO, Duration::ZERO);
        assert_eq!(
            entry.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["content-language"]
        );
    }

    #[test]
    fn every_truncation_is_an_error() {
        for len in 0..GOLDEN.len() {
            assert!(
                decode(&GOLDEN[..len]).is_err(),
                "the first {len} bytes were taken for an entry"
            );
        }
    }

    #[test]
    fn what_is_no_entry_is_named() {
        let changed = |from: &str, to: &str| {
            assert!(GOLDEN.contains(from), "{from}");
            decode(&GOLDEN.replacen(from, to, 1)).unwrap_err().to_string()
        };
        assert_eq!(decode("").unwrap_err().to_string(), "no metadata line");
        assert_eq!(decode("garbage").unwrap_err().to_string(), "no metadata line");
        assert_eq!(decode("garbage\n").unwrap_err().to_string(), "malformed metadata");
        assert_eq!(decode("{}\n").unwrap_err().to_string(), "malformed metadata");
        assert_eq!(decode("\n").unwrap_err().to_string(), "malformed metadata");
        assert_eq!(changed(r#""version":2"#, r#""version":3"#), "unknown version 3");
        assert_eq!(
            decode("{\"version\":4,\"new\":[]}\n").unwrap_err().to_string(),
            "unknown version 4"
        );
        for status in [":99", ":206", ":304", ":503"] {
            assert_eq!(changed(":200", status), "metadata of no answer that is kept");
        }
        assert_eq!(changed("content-type", "content type"), "metadata of no answer that is kept");
        assert_eq!(changed("application/json", r"a\nb"), "metadata of no answer that is kept");
        for etag in ["é", "a b", "", "W/x", "\u{7f}"] {
            let found = changed("a43ee3cf8af93a7ebee04608a7d6657f", etag);
            assert!(
                ["metadata of no answer that is kept", "malformed metadata"].contains(&&*found)
            );
        }
        assert_eq!(changed("application/json", "é"), "metadata of no answer that is kept");
        assert_eq!(changed("a43e", r"\u0022"), "malformed metadata");
        let crowd = format!("[{}[\"a\",\"\"]]", "[\"a\",\"\"],".repeat(30_000));
        assert_eq!(
            changed(r#"[["content-type","application/json"]]"#, &crowd),
            "metadata of no answer that is kept"
        );
        assert_eq!(
            decode(&format!("{GOLDEN}!")).unwrap_err().to_string(),
            "a body of 61 bytes where the metadata says 60"
        );
    }

    /// Damaged entries, with some bytes or metadata replaced, and arbitrary bytes.
    pub(crate) fn damaged_entry() -> impl Strategy<Value = Bytes> {
        let (line, body) = GOLDEN.split_once('\n').unwrap();
        let metadata: serde_json::Map<_, _> = serde_json::from_str(line).unwrap();
        let names: Vec<String> = metadata.keys().cloned().collect();
        let value = prop_oneof![
            any::<u64>().prop_map(serde_json::Value::from),
            any::<i32>().prop_map(serde_json::Value::from),
            any::<String>().prop_map(serde_json::Value::from),
            prop::sample::select(&[100_u16, 200, 304, 404, 503, 999])
                .prop_map(serde_json::Value::from),
            prop::collection::vec(any::<[String; 2]>(), 0..4).prop_map(|pairs| {
                pairs.into_iter().map(|pair| serde_json::Value::from(pair.to_vec())).collect()
            }),
            Just(serde_json::Value::Null),
        ];
        let replaced = prop::collection::hash_map(prop::sample::select(names), value, 0..3);
        let other_metadata = (replaced, prop_oneof![Just(body.to_owned()), any::<String>()])
            .prop_map(move |(replaced, body)| {
                let mut metadata = metadata.clone();
                metadata.insert("body_bytes".into(), body.len().into());
                metadata.extend(replaced);
                format!("{}\n{body}", serde_json::Value::from(metadata)).into_bytes()
            });
        let byte = (any::<prop::sample::Index>(), any::<u8>());
        let other_bytes = prop::collection::vec(byte, 0..6).prop_map(|bytes| {
            let mut entry = GOLDEN.as_bytes().to_vec();
            for (place, byte) in bytes {
                *place.get_mut(&mut entry) = byte;
            }
            entry
        });
        let cut = any::<prop::sample::Index>()
            .prop_map(|end| GOLDEN.as_bytes()[..end.index(GOLDEN.len())].to_vec());
        let bytes = prop_oneof![
            4 => other_metadata,
            3 => other_bytes,
            1 => cut,
            1 => prop::collection::vec(any::<u8>(), 0..200),
        ];
        bytes.prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_entry_or_an_error(bytes in damaged_entry()) {
            if let Ok(entry) = Entry::decode(&key(), &bytes) {
                prop_assert_eq!(Entry::decode(&key(), &entry.encode(&key())).unwrap(), entry);
            }
        }
    }
}
