//! Audits load some hits again after the reply, so that a team knows how many of its answers are outdated.
//!
//! An entry that differs from the service's current response is only a suspect, because its invalidation may be on its
//! way. So the cache checks it once more after a grace period. On Lambda nothing waits for that, since waiting is
//! billed: the process remembers the suspect, and its next request after the grace period triggers the check.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tracing::{debug, warn};

use crate::clock::whole_ms;
use crate::kept::{Content, Loaded, Settled, Stored as _};
use crate::read_through::{Done, ReadThrough, random};
use crate::report::record;
use crate::stamps::Stamp;
use crate::{CacheKey, Expected, Store, after_reply, mark};

/// How many suspects a process remembers. Further ones are forgotten: a later audit of the same entry finds them again.
const MOST_SUSPECTS: usize = 1_024;

/// Which hits are audited, and how long an invalidation may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Audit {
    /// The share of hits, above 0 and at most 1.
    pub(crate) rate: f64,
    pub(crate) grace: Duration,
}

impl Audit {
    /// Whether to audit this hit.
    pub(crate) fn samples(self) -> bool {
        random() <= self.rate
    }
}

/// An entry that differed from the service's current response.
#[derive(Debug)]
pub(crate) struct Suspect {
    pub(crate) key: CacheKey,
    /// The first bytes of the entry.
    pub(crate) fingerprint: Bytes,
    pub(crate) stamps: Vec<Stamp>,
}

/// The suspects of a process, each with the end of its grace period (milliseconds since the Unix epoch).
#[derive(Debug, Default)]
pub(crate) struct Suspicions(Mutex<Vec<(u64, Suspect)>>);

impl Suspicions {
    fn suspects(&self) -> MutexGuard<'_, Vec<(u64, Suspect)>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, due_at_ms: u64, suspect: Suspect) {
        let mut suspects = self.suspects();
        let is_known = suspects.iter().any(|(_, known)| known.fingerprint == suspect.fingerprint);
        if !is_known && suspects.len() < MOST_SUSPECTS {
            suspects.push((due_at_ms, suspect));
        }
    }

    /// Whether the entry that begins with `fingerprint` is a suspect: another audit of it would reveal nothing new.
    pub(crate) fn has(&self, fingerprint: &Bytes) -> bool {
        self.suspects().iter().any(|(_, suspect)| suspect.fingerprint == *fingerprint)
    }

    fn has_due(&self, now_ms: u64) -> bool {
        self.suspects().iter().any(|(due_at_ms, _)| *due_at_ms <= now_ms)
    }

    /// Removes and returns a suspect whose grace period is over.
    fn take_due(&self, now_ms: u64) -> Option<Suspect> {
        let mut suspects = self.suspects();
        let due = suspects.iter().position(|(due_at_ms, _)| *due_at_ms <= now_ms)?;
        Some(suspects.remove(due).1)
    }
}

impl<S: Store> ReadThrough<S> {
    /// Checks, after the reply, the suspects whose grace period is over.
    pub(crate) fn look_for_suspects(self: &Arc<Self>) {
        if self.shared.suspicions.has_due(self.clock.now_ms()) {
            let core = Arc::clone(self);
            self.defer(async move {
                while let Some(suspect) = core.shared.suspicions.take_due(core.clock.now_ms()) {
                    core.convict(suspect).await;
                }
            });
        }
    }

    /// Compares the result of a load with the entry that was served. A failed load proves nothing about the entry.
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

    /// Removes a suspect that is still stored. A value that has replaced it stays.
    async fn convict(&self, Suspect { key, fingerprint, stamps }: Suspect) {
        let mut budget = self.budget(None);
        let removed = match self.is_alive(&stamps, None, &mut budget).await {
            Ok(true) => {
                // The replacement expires at once, so that the next request finds nothing and loads.
                let pass = mark::new_pass(self.clock.now_ms());
                let expected = Expected::StartsWith(&fingerprint);
                let put = self.shared.store.put(&key, expected, pass, Duration::from_millis(1));
                budget.spend(put).await
            }
            other => other,
        };
        match removed {
            Ok(true) => {
                record(|report| report.audit_stale += 1);
                warn!(
                    "an entry differed from what the service answers, and nothing invalidated it in time; removed it"
                );
            }
            Ok(false) => record(|report| report.audit_raced += 1),
            Err(fault) => {
                self.tell(&fault, "audit not finished; the next audit of the entry tries again");
            }
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
