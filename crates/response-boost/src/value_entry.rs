//! A stored value: one line of JSON metadata, `\n`, the value as JSON. `None` is stored as no bytes.
//!
//! ```text
//! {"version":2,"id":"6f1c…","key":"a3c9…","load_started_at_ms":1780000000000,"load_cost_ms":3,"ttl_ms":120000,"value_bytes":61}
//! {"id":1,"name":"Manas","email":"manas@example.com","age":25}
//! ```
//!
//! The rules for the format of a response's [entry] apply here too. Neither is ever mistaken for the other, because
//! each has fields that the other lacks.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::whole_ms;
use crate::entry::{self, AnyVersion, VERSION, is_key_hash, key_hash};
use crate::freshness::StaleFor;
use crate::kept::{Content, LoadFailure, Loaded, Settled, Stored, Times};
use crate::stamps::{self, Stamp};
use crate::{CacheKey, DecodeError, Keep, NotStored, Policy, Tag, tag};

pub(crate) struct ValueEntry<T> {
    pub(crate) value: Option<T>,
    times: Times,
    /// The stored value.
    json: Bytes,
    stamps: Vec<Stamp>,
}

#[derive(Serialize, Deserialize)]
struct Metadata<'a> {
    version: u32,
    id: &'a str,
    key: &'a str,
    load_started_at_ms: u64,
    load_cost_ms: u64,
    ttl_ms: u64,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<(std::borrow::Cow<'a, str>, &'a str)>,
    value_bytes: usize,
}

impl<T: DeserializeOwned> Stored for ValueEntry<T> {
    fn decode(key: &CacheKey, bytes: &Bytes) -> Result<Self, DecodeError> {
        let (line, json) = entry::split(bytes)?;
        let metadata: Metadata<'_> =
            serde_json::from_str(line).map_err(|error| match serde_json::from_str(line) {
                Ok(AnyVersion { version }) if version != VERSION => DecodeError::Version(version),
                _ => DecodeError::Metadata(error.into()),
            })?;
        if metadata.version != VERSION {
            return Err(DecodeError::Version(metadata.version));
        }
        if !is_key_hash(metadata.key, key) {
            return Err(DecodeError::OtherKey);
        }
        if metadata.value_bytes != json.len() {
            let expected = metadata.value_bytes;
            return Err(DecodeError::BodyLength { expected, found: json.len() });
        }
        let value = if json.is_empty() {
            None
        } else {
            let text = std::str::from_utf8(&json).map_err(|_| DecodeError::Value)?;
            // The text of the error may quote the value.
            Some(serde_json::from_str(text).map_err(|_| DecodeError::Value)?)
        };
        let times = Times {
            load_started_at_ms: metadata.load_started_at_ms,
            load_cost: Duration::from_millis(metadata.load_cost_ms),
            ttl: Duration::from_millis(metadata.ttl_ms),
        };
        let stamps = stamps::read_from(metadata.tags)?;
        Ok(Self { value, times, json, stamps })
    }

    fn encode(&self, key: &CacheKey) -> Bytes {
        let metadata = Metadata {
            version: VERSION,
            id: &Uuid::new_v4().simple().to_string(),
            key: &key_hash(key),
            load_started_at_ms: self.times.load_started_at_ms,
            load_cost_ms: whole_ms(self.times.load_cost),
            ttl_ms: whole_ms(self.times.ttl),
            tags: stamps::written(&self.stamps),
            value_bytes: self.json.len(),
        };
        entry::join(&metadata, &self.json)
    }

    fn times(&self) -> Times {
        self.times
    }

    fn content(&self) -> Content {
        // A map may serialize in another order each time.
        let sorted = serde_json::from_slice(&self.json)
            .and_then(|json: serde_json::Value| serde_json::to_vec(&json));
        let body = sorted.map_or_else(|_| self.json.clone(), Bytes::from);
        Content { status: StatusCode::OK, headers: Vec::new(), body }
    }

    fn stale_for(&self, policy: &Policy) -> StaleFor {
        StaleFor {
            if_error: policy.stale_if_error,
            while_revalidate: policy.stale_while_revalidate,
        }
    }

    fn stamps(&self) -> &[Stamp] {
        &self.stamps
    }

    fn set_stamps(&mut self, stamps: Vec<Stamp>) {
        self.stamps = stamps;
    }
}

/// A loaded value, and what to store of it.
pub(crate) struct LoadedValue<T> {
    value: Option<T>,
    stored: Result<(Bytes, Duration), NotStored>,
    tags: Vec<Tag>,
}

/// The load was cancelled.
#[derive(Debug)]
pub(crate) struct CutOff;

impl<T: Serialize> LoadedValue<T> {
    pub(crate) fn of(value: Option<T>, keep: Option<&Keep>, policy: &Policy) -> Self {
        let tags = tag::allowed(keep.map_or(&[][..], Keep::tags), policy);
        let (tags, tagged) = match tags {
            Ok(tags) => (tags.to_vec(), Ok(())),
            Err(why) => (Vec::new(), Err(why)),
        };
        let ttl = Self::ttl_of(value.as_ref(), keep, policy);
        let stored = ttl.and_then(|ttl| tagged.map(|()| ttl)).and_then(|ttl| {
            let json = value.as_ref().map(serde_json::to_vec).transpose();
            let json = json.map_err(|_| NotStored::NotJson)?;
            Ok((json.unwrap_or_default().into(), ttl))
        });
        Self { value, stored, tags }
    }

    /// The policy's TTL, as for a response: a value counts as a 200, `None` as a 404.
    fn ttl_of(
        value: Option<&T>,
        keep: Option<&Keep>,
        policy: &Policy,
    ) -> Result<Duration, NotStored> {
        let status = if value.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
        let by_policy = policy.ttl_of(status).ok_or(NotStored::Status)?;
        let ttl = keep.and_then(Keep::ttl).unwrap_or(by_policy).min(policy.max_ttl);
        if ttl.is_zero() { Err(NotStored::NotFresh) } else { Ok(ttl) }
    }
}

impl<T: DeserializeOwned> Loaded for LoadedValue<T> {
    type Entry = ValueEntry<T>;
    type Passed = Result<Option<T>, CutOff>;

    /// A value that may not be stored does not replace a fresh entry. `None` does, because the value is gone.
    fn failure(&self, is_fresh: bool) -> Option<LoadFailure> {
        let why = self.stored.as_ref().err().filter(|_| is_fresh && self.value.is_some())?;
        Some(LoadFailure { status: None, what: format!("not to be stored: {why}") })
    }

    fn settled(self, load_started_at_ms: u64, load_cost: Duration) -> Settled<Self> {
        match self.stored {
            Ok((json, ttl)) => {
                let times = Times { load_started_at_ms, load_cost, ttl };
                let entry = ValueEntry { value: self.value, times, json, stamps: Vec::new() };
                Settled::Kept(entry, self.tags)
            }
            Err(why) => Settled::Passed(Ok(self.value), why),
        }
    }

    fn cut_off() -> Self::Passed {
        Err(CutOff)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct User {
        id: u64,
        name: String,
    }

    /// The bytes of version 2. Redis has entries like this one while the next release is deployed. If this test fails,
    /// do not change the bytes: give the new format a new version, keep reading this one, and write the new one a
    /// release later.
    const GOLDEN: &str = concat!(
        r#"{"version":2,"id":"ID","key":"7efd39657c752c5c6033d3d32b3ca5c8","#,
        r#""load_started_at_ms":1780000000000,"load_cost_ms":3,"ttl_ms":120000,"value_bytes":23}"#,
        "\n",
        r#"{"id":1,"name":"Manas"}"#,
    );

    fn key() -> CacheKey {
        crate::Namespace::parse("users").unwrap().key(["user", "1"])
    }

    fn manas() -> User {
        User { id: 1, name: "Manas".to_owned() }
    }

    fn entry<T: Serialize + DeserializeOwned>(value: Option<T>) -> ValueEntry<T> {
        let policy = Policy::new(Duration::from_mins(2)).with_not_found_ttl(Duration::from_mins(2));
        let loaded = LoadedValue::of(value, None, &policy);
        match loaded.settled(1_780_000_000_000, Duration::from_millis(3)) {
            Settled::Kept(entry, _) => entry,
            Settled::Passed(_, why) => panic!("{why}"),
        }
    }

    fn decode(text: &str) -> Result<ValueEntry<User>, DecodeError> {
        ValueEntry::decode(&key(), &Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn the_stored_bytes_are_those_of_version_2() {
        let bytes = entry(Some(manas())).encode(&key());
        let text = std::str::from_utf8(&bytes).unwrap();
        let id = text.split('"').nth(5).unwrap();
        assert_eq!(id.len(), 32);
        assert_eq!(text.replacen(id, "ID", 1), GOLDEN);
        let read = decode(GOLDEN).unwrap();
        assert_eq!((read.value, read.times), (Some(manas()), entry(Some(manas())).times));
    }

    #[test]
    fn tags_stand_before_the_length_of_the_value() {
        let tags = r#""tags":[["users:%all","6f1c7d2e8a9b4c5d8e7f60718293a4b5"]],"value_bytes""#;
        let text = GOLDEN.replacen(r#""value_bytes""#, tags, 1);
        let read = decode(&text).unwrap();
        assert_eq!(read.stamps[0].key.as_str(), "users:%all");
        let mut entry = entry(Some(manas()));
        entry.set_stamps(read.stamps);
        let written = entry.encode(&key());
        assert!(std::str::from_utf8(&written).unwrap().contains(tags));
        let bad = text.replacen("6f1c", "6f1", 1);
        assert_eq!(decode(&bad).err().unwrap().to_string(), "a malformed tag");
    }

    #[test]
    fn nothing_is_told_from_a_value_that_is_null() {
        type Inner = Option<u8>;
        for value in [None, Some(None), Some(Some(1))] {
            let bytes = entry::<Inner>(value).encode(&key());
            assert_eq!(ValueEntry::<Inner>::decode(&key(), &bytes).unwrap().value, value);
        }
    }

    #[test]
    fn what_is_no_entry_is_named_and_shows_nothing() {
        let changed = |from: &str, to: &str| {
            assert!(GOLDEN.contains(from), "{from}");
            decode(&GOLDEN.replacen(from, to, 1)).err().unwrap().to_string()
        };
        assert_eq!(changed(r#""version":2"#, r#""version":3"#), "unknown version 3");
        assert_eq!(changed("7efd", "0000"), "an entry of another key");
        assert_eq!(changed("value_bytes", "body_bytes"), "malformed metadata");
        assert_eq!(changed("Manas\"}", "Manas\""), "a body of 22 bytes where the metadata says 23");
        assert_eq!(changed(r#""id":1,"#, r#""ib":1,"#), "a value of another form");
        assert_eq!(changed(r#":"Manas""#, r":1234567"), "a value of another form");
        assert_eq!(decode("garbage").err().unwrap().to_string(), "no metadata line");
    }

    #[test]
    fn a_response_is_no_value_and_a_value_no_response() {
        let response = http::Response::new(Bytes::from_static(b"1"));
        let response = crate::Entry::of_response(response, 0, Duration::ZERO, Duration::ZERO);
        let error = ValueEntry::<u8>::decode(&key(), &response.encode(&key())).err().unwrap();
        assert_eq!(error.to_string(), "malformed metadata");
        let error = crate::Entry::decode(&key(), &entry(Some(1)).encode(&key())).unwrap_err();
        assert_eq!(error.to_string(), "malformed metadata");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_value_or_an_error(
            bytes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)
        ) {
            let mut entry = GOLDEN.as_bytes().to_vec();
            for (place, byte) in bytes {
                *place.get_mut(&mut entry) = byte;
            }
            let _ = ValueEntry::<User>::decode(&key(), &entry.into());
        }
    }
}
