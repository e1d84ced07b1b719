//! The in-process store: the default without Redis.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;

use crate::clock::{Clock, whole_ms};
use crate::{CacheKey, Expected, Found, Store, StoreError};

/// Stores entries in this process alone.
///
/// Each Lambda environment then has its own cache, which is empty at its start, and [`delete`](Store::delete) reaches
/// no other environment. The store is bounded: when its keys and values exceed the capacity, it evicts the least
/// recently used. It never fails.
#[derive(Debug)]
pub struct MemoryStore {
    kept: Mutex<Kept>,
    capacity_bytes: usize,
    clock: Clock,
}

#[derive(Debug)]
struct Kept {
    values: LruCache<CacheKey, Value>,
    bytes: usize,
}

#[derive(Debug)]
struct Value {
    bytes: Bytes,
    ends_at_ms: u64,
}

impl MemoryStore {
    /// A quarter of the smallest memory that a Lambda function can have.
    pub const DEFAULT_CAPACITY_BYTES: usize = 32 * 1024 * 1024;

    /// Creates an empty store that holds at most `capacity_bytes` of keys and values.
    #[must_use]
    pub fn with_capacity_bytes(capacity_bytes: usize) -> Self {
        Self {
            kept: Mutex::new(Kept { values: LruCache::unbounded(), bytes: 0 }),
            capacity_bytes,
            clock: Clock::default(),
        }
    }

    fn insert(&self, kept: &mut Kept, key: &CacheKey, bytes: Bytes, ends_at_ms: u64) {
        kept.remove(key);
        kept.bytes += size(key, &bytes);
        kept.values.put(key.clone(), Value { bytes, ends_at_ms });
        while kept.bytes > self.capacity_bytes
            && let Some((key, value)) = kept.values.pop_lru()
        {
            kept.bytes -= size(&key, &value.bytes);
        }
    }

    #[cfg(test)]
    pub(crate) fn with_clock(clock: Clock) -> Self {
        Self { clock, ..Self::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics while it holds the lock; even if something did, the cache could safely go on.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_capacity_bytes(Self::DEFAULT_CAPACITY_BYTES)
    }
}

impl Store for MemoryStore {
    async fn get(&self, key: &CacheKey) -> Result<Found, StoreError> {
        let value = self.kept().get(key, self.clock.now_ms());
        Ok(value.map_or(Found::Nothing, Found::Value))
    }

    async fn put(
        &self,
        key: &CacheKey,
        expected: Expected<'_>,
        value: Bytes,
        life: Duration,
    ) -> Result<bool, StoreError> {
        let now_ms = self.clock.now_ms();
        let mut kept = self.kept();
        let is_expected = match expected {
            Expected::Anything => true,
            Expected::Nothing => kept.get(key, now_ms).is_none(),
            Expected::StartsWith(start) => {
                kept.get(key, now_ms).is_some_and(|value| value.starts_with(start))
            }
            // Only this store writes here, so nothing is ever foreign.
            Expected::Foreign => false,
        };
        if !is_expected {
            return Ok(false);
        }
        self.insert(&mut kept, key, value, now_ms.saturating_add(whole_ms(life)));
        Ok(true)
    }

    async fn stamp(&self, key: &CacheKey, id: Bytes, life: Duration) -> Result<Bytes, StoreError> {
        let now_ms = self.clock.now_ms();
        let mut kept = self.kept();
        let id = kept.get(key, now_ms).unwrap_or(id);
        // Renewing an id may lengthen its life, but never shortens it.
        let until_ms = kept.values.peek(key).map_or(0, |value| value.ends_at_ms);
        let ends_at_ms = now_ms.saturating_add(whole_ms(life)).max(until_ms);
        self.insert(&mut kept, key, id.clone(), ends_at_ms);
        Ok(id)
    }

    fn name(&self) -> &'static str {
        "memory"
    }

    async fn delete(&self, key: &CacheKey) -> Result<(), StoreError> {
        self.kept().remove(key);
        Ok(())
    }
}

impl Kept {
    /// The value, unless it has expired.
    fn get(&mut self, key: &CacheKey, now_ms: u64) -> Option<Bytes> {
        let value = self.values.get(key)?;
        if now_ms < value.ends_at_ms {
            return Some(value.bytes.clone());
        }
        self.remove(key);
        None
    }

    fn remove(&mut self, key: &CacheKey) {
        if let Some(value) = self.values.pop(key) {
            self.bytes -= size(key, &value.bytes);
        }
    }
}

fn size(key: &CacheKey, value: &Bytes) -> usize {
    OVERHEAD_BYTES + key.as_str().len() + value.len()
}

/// Roughly what the list, the table and the allocator need for each value.
const OVERHEAD_BYTES: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Namespace;

    fn key(id: usize) -> CacheKey {
        Namespace::parse("n").unwrap().key([id.to_string()])
    }

    async fn put(store: &MemoryStore, id: usize, value: Vec<u8>, life: Duration) {
        assert!(store.put(&key(id), Expected::Anything, value.into(), life).await.unwrap());
    }

    #[tokio::test]
    async fn a_value_lives_for_its_life_and_no_longer() {
        let clock = Clock::held_at(1_000);
        let store = MemoryStore::with_clock(clock.clone());
        put(&store, 1, b"x".to_vec(), Duration::from_secs(2)).await;
        clock.advance(Duration::from_millis(1_999));
        assert_ne!(store.get(&key(1)).await.unwrap(), Found::Nothing);
        clock.advance(Duration::from_millis(1));
        assert_eq!(store.get(&key(1)).await.unwrap(), Found::Nothing);
        assert_eq!(store.kept().bytes, 0, "what has ended takes no room");
    }

    #[tokio::test]
    async fn the_least_recently_used_goes_first_when_it_is_full() {
        // Room for three values: each is 3 bytes of key and 97 of value.
        let store = MemoryStore::with_capacity_bytes(3 * (100 + OVERHEAD_BYTES));
        let life = Duration::from_mins(1);
        for id in 1..=3 {
            put(&store, id, vec![0; 97], life).await;
        }
        store.get(&key(1)).await.unwrap();
        put(&store, 4, vec![0; 97], life).await;

        let mut left = Vec::new();
        for id in 1..=4 {
            if store.get(&key(id)).await.unwrap() != Found::Nothing {
                left.push(id);
            }
        }
        assert_eq!(left, [1, 3, 4]);
        assert_eq!(store.kept().bytes, 3 * (100 + OVERHEAD_BYTES));
    }

    #[tokio::test]
    async fn a_value_that_is_larger_than_the_store_is_not_kept() {
        let store = MemoryStore::with_capacity_bytes(10 + OVERHEAD_BYTES);
        put(&store, 1, vec![0; 11], Duration::from_mins(1)).await;
        assert_eq!(store.get(&key(1)).await.unwrap(), Found::Nothing);
        assert_eq!(store.kept().bytes, 0);
    }
}
