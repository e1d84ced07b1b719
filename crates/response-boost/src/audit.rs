//! Audits: hits that are loaded again after the reply, so that a team knows how many of its answers are too old.
//!
//! An entry that differs from what its service answers now is only suspect: the invalidation may be on its way. So it
//! is looked for once more after a grace. On Lambda nobody waits for that, since waiting is billed: the process
//! remembers the suspect, and its next request after the grace looks.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tracing::{debug, warn};

use crate::budget::Budget;
use crate::clock::whole_ms;
use crate::kept::{Content, Loaded, Settled, Stored as _};
use crate::read_through::{Done, ReadThrough, random};
use crate::report::record;
use crate::stamps::Stamp;
use crate::{CacheKey, Found, Store, StoreError, after_reply};

/// How many suspects a process remembers. Those beyond it are forgotten: a later audit of theirs finds them again.
const MOST_SUSPECTS: usize = 1_024;

/// Which hits are audited, and how long an invalidation may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Audit {
    /// The share of hits, above 0 and at most 1.
    pub(crate) rate: f64,
    pub(crate) grace: Duration,
}

impl Audit {
    /// Whether this hit is one of those to audit.
    pub(crate) fn samples(self) -> bool {
        random() <= self.rate
    }
}

/// An entry that differed from what its service answered.
#[derive(Debug)]
pub(crate) struct Suspect {
    pub(crate) key: CacheKey,
    /// The entry begins like this.
    pub(crate) fingerprint: Bytes,
    pub(crate) stamps: Vec<Stamp>,
}

/// The suspects of a process, each with the time at which its invalidation has had the grace (milliseconds since the
/// Unix epoch), in that order.
#[derive(Debug, Default)]
pub(crate) struct Suspicions(Mutex<Vec<(u64, Suspect)>>);

impl Suspicions {
    fn suspects(&self) -> MutexGuard<'_, Vec<(u64, Suspect)>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, due_at_ms: u64, suspect: Suspect) {
        let mut suspects = self.suspects();
        let is_known = suspects.iter().any(|(_, known)| known.fingerprint == suspect.fingerprint);
        if !is_known && suspects.len() < MOST_SUSPECTS {
            suspects.push((due_at_ms, suspect));
        }
    }

    /// Those that are due, which it forgets.
    fn take_due(&self, now_ms: u64) -> Vec<Suspect> {
        let mut suspects = self.suspects();
        let due = suspects.extract_if(.., |(due_at_ms, _)| *due_at_ms <= now_ms);
        due.map(|(_, suspect)| suspect).collect()
    }
}

impl<S: Store> ReadThrough<S> {
    /// Leaves the suspects that are due to be looked for after the reply.
    pub(crate) fn look_for_suspects(self: &Arc<Self>) {
        let due = self.shared.suspicions.take_due(self.clock.now_ms());
        if !due.is_empty() {
            let core = Arc::clone(self);
            self.defer(async move {
                for suspect in due {
                    core.convict(suspect).await;
                }
            });
        }
    }

    /// Compares what a load gave with the entry that was answered. A load that gave nothing to go by says nothing
    /// about the entry.
    pub(crate) fn audit<L: Loaded, E: fmt::Display>(
        self: &Arc<Self>,
        entry: Suspect,
        answered: &Content,
        done: Done<L, E>,
    ) {
        let Some(audit) = self.policy.audit else { return };
        let loaded = match done.loaded {
            Some(Ok(loaded)) if loaded.failure(true).is_none() => loaded,
            _ => {
                debug!("not audited: the load failed");
                return;
            }
        };
        record(|report| report.audited += 1);
        let now_ms = self.clock.now_ms();
        if let Settled::Kept(entry, _) = loaded.settled(now_ms, Duration::ZERO)
            && entry.content() == *answered
        {
            return;
        }
        let due_at_ms = now_ms.saturating_add(whole_ms(audit.grace));
        self.shared.suspicions.add(due_at_ms, entry);
        if !after_reply::has_layer() {
            let core = Arc::clone(self);
            let later = async move {
                tokio::time::sleep(audit.grace).await;
                core.look_for_suspects();
            };
            self.defer(later);
        }
    }

    /// Removes a suspect that still stands.
    async fn convict(&self, Suspect { key, fingerprint, stamps }: Suspect) {
        let mut budget = self.budget(None);
        match self.stands(&key, &fingerprint, &stamps, &mut budget).await {
            Ok(true) => {
                record(|report| report.audit_stale += 1);
                warn!(
                    "an entry differs from what the service answers, and nothing invalidated it in time; removing it"
                );
                // Removing is never wrong: what others may have put there by now is only loaded once more.
                if let Err(fault) = budget.spend(self.shared.store.delete(&key)).await {
                    self.tell(&fault, "entry not removed; the next audit of it tries again");
                }
            }
            Ok(false) => record(|report| report.audit_raced += 1),
            Err(fault) => {
                self.tell(&fault, "audit not finished");
            }
        }
    }

    /// Whether an entry is still there, and none of its tags has been invalidated.
    async fn stands(
        &self,
        key: &CacheKey,
        fingerprint: &Bytes,
        stamps: &[Stamp],
        budget: &mut Budget<'_>,
    ) -> Result<bool, StoreError> {
        match budget.spend(self.shared.store.get(key)).await? {
            Found::Value(value) if value.starts_with(fingerprint) => {
                self.is_alive(stamps, None, budget).await
            }
            _ => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_share_of_hits_that_are_audited() {
        let audited = |rate| {
            let audit = Audit { rate, grace: Duration::ZERO };
            (0..10_000).filter(|_| audit.samples()).count()
        };
        assert_eq!(audited(1.0), 10_000);
        // Twenty standard deviations to each side.
        assert!((1_500..4_000).contains(&audited(0.25)));
    }
}
