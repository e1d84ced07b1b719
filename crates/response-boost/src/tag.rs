//! Tags: names for groups of entries that are invalidated together.

use std::fmt;

use http::response;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::{CacheKey, Keep, Namespace, NotStored, Policy};

/// A name for a group of entries (`team-7`). [One call](crate::ResponseCacheLayer::invalidate_tag) invalidates the
/// whole group, however large it is.
///
/// ```
/// use response_boost::Namespace;
///
/// let users = Namespace::parse("users")?;
/// assert_eq!(users.tag("team-7")?.as_str(), "users:%tag:team-7");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The store has a random id for each tag, under the key `<namespace>:%tag:<name>`. A load reads the ids of its tags
/// before it calls the service, and the entry carries them. A hit reads the entry and its tags at the same time. If the
/// entry's id of a tag differs from the stored one, or the tag is gone, the lookup is a miss. So `redis-cli DEL
/// 'users:%tag:team-7'` invalidates the group by hand, and an evicted tag costs misses but never serves an old
/// response.
///
/// The name is escaped like a part of a [`CacheKey`]. No list of key parts produces the key of a tag.
///
/// # Where tags come from
///
/// - The request: [`ResponseCacheLayer::with_tags`](crate::ResponseCacheLayer::with_tags),
///   [`ValueCache::with_tags`](crate::ValueCache::with_tags). Such a tag costs a load one command and a hit none,
///   because the entry and its tags share one lookup (in a cluster, one command for each, all sent at once).
/// - The policy: [`Policy::with_tag`] gives all entries a tag, such as [`Namespace::whole`].
/// - The response or the load: [`Keep::with_tags`], or a `Cache-Tag` field ([`Policy::with_response_tags`],
///   [`Policy::with_cache_tag_header`]). Only the entry names such a tag, so a hit reads it after the entry, in a
///   second round trip.
///
/// A response has at most 8 tags ([`Tag::MOST`]). A response with more tags, or with a malformed one, is not stored
/// (`detail=tags`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    key: CacheKey,
    namespace_bytes: usize,
    shards: u8,
}

/// Why a [`Tag`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a tag of 1 to {} bytes", Tag::MAX_LEN)]
pub struct InvalidTag;

// No part of a key begins like this: in a part, `%` is followed by two capital hex digits, or the part is `%72efresh`.
const TAG: &str = "%tag";
const WHOLE: &str = "%all";
const CHANGES: &str = "%changes";

impl Namespace {
    /// The tag with this name, of 1 to 128 bytes, in this namespace.
    pub fn tag(&self, name: &str) -> Result<Tag, InvalidTag> {
        if !(1..=Tag::MAX_LEN).contains(&name.len()) {
            return Err(InvalidTag);
        }
        let mut key = [self.as_str(), ":", TAG].concat();
        CacheKey::escape(&mut key, name);
        Ok(Tag::new(self, key))
    }

    /// The tag of the whole namespace, under the key `<namespace>:%all`. Give it to all entries by
    /// [`Policy::with_tag`], and one call invalidates them without a `SCAN`.
    #[must_use]
    pub fn whole(&self) -> Tag {
        Tag::new(self, [self.as_str(), ":", WHOLE].concat())
    }

    /// The key that every invalidation of a tag in this namespace changes.
    pub(crate) fn changes(&self) -> CacheKey {
        changes(self.as_str())
    }
}

impl Tag {
    /// The most tags that a response may have.
    pub const MOST: usize = 8;
    const MAX_LEN: usize = 128;

    fn new(namespace: &Namespace, key: String) -> Self {
        let namespace_bytes = namespace.as_str().len();
        Self { key: CacheKey::from_raw(key), namespace_bytes, shards: 1 }
    }

    /// The same tag spread over `shards` keys (0 counts as 1): `users:%tag:team-7`, `users:%tag:team-7:1`,
    /// `users:%tag:team-7:2` … Use it for a tag on so many entries that its lookups would overload one node of a
    /// cluster.
    ///
    /// Each entry uses one shard, chosen by its own key. An invalidation deletes all shards, and succeeds when all are
    /// gone. So the invalidating code must know at least as many shards as the storing code: **to raise the number,
    /// deploy the invalidating code first; to lower it, deploy it last.** By hand, delete each of the keys.
    #[must_use]
    pub fn with_shards(mut self, shards: u8) -> Self {
        self.shards = shards.max(1);
        self
    }

    /// The key under which the store has the tag's id; with several shards, the key of the first.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.key.as_str()
    }

    /// The keys of all shards.
    pub(crate) fn keys(&self) -> impl Iterator<Item = CacheKey> {
        (0..self.shards).map(|shard| self.shard(shard))
    }

    /// The shard that the entry under `key` uses. All processes choose the same one, so a hit can look it up before it
    /// has seen the entry.
    pub(crate) fn key_for(&self, key: &CacheKey) -> CacheKey {
        self.clone().into_key_for(key)
    }

    pub(crate) fn into_key_for(self, key: &CacheKey) -> CacheKey {
        if self.shards == 1 {
            return self.key;
        }
        // Processes of all releases must choose the same shard.
        let hash = Sha256::digest(key.as_str());
        self.shard(hash[0] % self.shards)
    }

    /// The key that every invalidation of this tag changes, besides the tag's own.
    pub(crate) fn changes(&self) -> CacheKey {
        changes(self.namespace())
    }

    fn namespace(&self) -> &str {
        &self.as_str()[..self.namespace_bytes]
    }

    fn shard(&self, shard: u8) -> CacheKey {
        if shard == 0 {
            return self.key.clone();
        }
        CacheKey::from_raw(format!("{}:{shard}", self.key))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(f)
    }
}

fn changes(namespace: &str) -> CacheKey {
    CacheKey::from_raw([namespace, ":", CHANGES].concat())
}

/// Whether this is the key of a tag, as an entry may name it.
pub(crate) fn is_tag(key: &str) -> bool {
    [":%tag:", ":%all"].iter().any(|reserved| key.contains(reserved))
}

/// The tags that a response names, if the policy allows it. Removes the `Cache-Tag` field if the cache reads it, so
/// that clients do not see it.
pub(crate) fn named_by(
    response: &mut response::Parts,
    policy: &Policy,
) -> Result<Vec<Tag>, NotStored> {
    let kept = response.extensions.get::<Keep>().map_or(&[][..], Keep::tags);
    let mut named = allowed(kept, policy).map(<[Tag]>::to_vec);
    if let (Some(namespace), true) = (&policy.response_tags, policy.reads_cache_tag) {
        for line in response.headers.get_all(CACHE_TAG) {
            // A list (RFC 9110 §5.6.1) may have empty elements.
            let list = line.to_str().map_err(|_| NotStored::Tags);
            named = named.and_then(|mut named| {
                for name in list?.split(',').map(str::trim_ascii).filter(|name| !name.is_empty()) {
                    named.push(namespace.tag(name).map_err(|_| NotStored::Tags)?);
                }
                Ok(named)
            });
        }
        response.headers.remove(CACHE_TAG);
    }
    named
}

/// Returns the tags if the policy allows a response to name them.
pub(crate) fn allowed<'a>(tags: &'a [Tag], policy: &Policy) -> Result<&'a [Tag], NotStored> {
    let is_allowed = |tag: &Tag| {
        policy.response_tags.as_ref().is_some_and(|namespace| namespace.as_str() == tag.namespace())
    };
    if tags.iter().all(is_allowed) { Ok(tags) } else { Err(NotStored::Tags) }
}

const CACHE_TAG: &str = "cache-tag";

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use http::Response;

    use super::*;

    fn users() -> Namespace {
        Namespace::parse("users").unwrap()
    }

    #[test]
    fn a_tag_is_1_to_128_bytes_and_escaped_as_a_part_is() {
        for (name, key) in [
            ("team-7", "users:%tag:team-7"),
            ("a:b %{c}\n", "users:%tag:a%3Ab%20%25%7Bc%7D%0A"),
            ("ü", "users:%tag:%C3%BC"),
            ("refresh", "users:%tag:refresh"),
            (&"x".repeat(128), &format!("users:%tag:{}", "x".repeat(128))),
        ] {
            assert_eq!(users().tag(name).unwrap().as_str(), key);
        }
        for name in ["", &"x".repeat(129), &"ü".repeat(65)] {
            let error = users().tag(name).unwrap_err();
            assert_eq!(error.to_string(), "a tag of 1 to 128 bytes");
        }
    }

    #[test]
    fn no_parts_make_the_key_of_a_tag_and_no_two_tags_share_one() {
        let mut keys = HashSet::new();
        for name in ["1", "a", "a:1", "%tag", "all", "%all", "changes", "#1", "\u{10}"] {
            keys.extend(users().tag(name).unwrap().with_shards(3).keys());
        }
        keys.extend(users().whole().with_shards(3).keys());
        keys.insert(users().changes());
        assert_eq!(keys.len(), 9 * 3 + 3 + 1);
        for parts in [&["%tag", "a"][..], &["%tag:a"], &["%all"], &["%changes"], &["%74ag", "a"]] {
            assert!(!keys.contains(&users().key(parts)), "{parts:?}");
        }
        let namespace = Namespace::parse("users:tag").unwrap();
        assert!(!keys.contains(&namespace.key(["a"])));
    }

    #[test]
    fn entries_spread_over_the_shards_of_a_tag_each_always_on_the_same() {
        let tag = users().whole().with_shards(4);
        let chosen = |id: usize| tag.key_for(&users().key([id.to_string()]));
        let used: HashSet<_> = (0..100).map(chosen).collect();
        assert_eq!(used, tag.keys().collect());
        // Pinned: processes of another release must choose alike.
        let first: Vec<_> = (0..6).map(|id| chosen(id).to_string()).collect();
        let first: Vec<_> = first.iter().map(|key| key.trim_start_matches("users:%all")).collect();
        assert_eq!(first, PINNED);
        assert_eq!(users().whole().with_shards(0).keys().count(), 1);
    }

    const PINNED: [&str; 6] = [":3", "", ":2", ":2", "", ""];

    fn named(policy: &Policy, lines: &[&str], keep: Option<Keep>) -> Result<Vec<Tag>, NotStored> {
        let mut response = Response::builder();
        for line in lines {
            response = response.header("Cache-Tag", *line);
        }
        let (mut parts, ()) = response.body(()).unwrap().into_parts();
        if let Some(keep) = keep {
            parts.extensions.insert(keep);
        }
        let named = named_by(&mut parts, policy);
        assert_eq!(parts.headers.is_empty(), policy.reads_cache_tag || lines.is_empty());
        named
    }

    #[test]
    fn a_response_names_tags_only_where_the_policy_lets_it() {
        let policy = || Policy::new(std::time::Duration::from_secs(1));
        let tag = |name| users().tag(name).unwrap();
        let keep = || Some(Keep::tagged([tag("a")]));

        assert_eq!(named(&policy(), &["x"], None), Ok(vec![]));
        assert_eq!(named(&policy(), &[], keep()), Err(NotStored::Tags));

        let by_keep = policy().with_response_tags(users());
        assert_eq!(named(&by_keep, &["x"], keep()), Ok(vec![tag("a")]));
        let other = Keep::tagged([Namespace::parse("other").unwrap().tag("a").unwrap()]);
        assert_eq!(named(&by_keep, &[], Some(other)), Err(NotStored::Tags));

        let by_header = policy().with_cache_tag_header(users());
        let all = ["a", "b", "c:d", "e f"].map(tag).to_vec();
        assert_eq!(named(&by_header, &["b, c:d,,", " e f "], keep()), Ok(all));
        for bad in [&"x".repeat(129)[..], "ü"] {
            assert_eq!(named(&by_header, &["a", bad], None), Err(NotStored::Tags));
        }
    }
}
