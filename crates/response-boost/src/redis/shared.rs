//! What all connections of a store share.

use std::sync::Arc;

use tracing::warn;

use super::background::Background;
use super::resolver::Resolver;
use super::settings::RedisSettings;
use crate::StoreError;
use crate::clock::Clock;
use crate::faults::Faults;
use kept_timers::Timers;

pub(super) struct Shared {
    pub(super) settings: RedisSettings,
    pub(super) resolver: Resolver,
    pub(super) clock: Clock,
    pub(super) timers: Timers,
    pub(super) background: Arc<Background>,
    faults: Faults,
}

impl Shared {
    pub(super) fn new(settings: RedisSettings) -> Self {
        let (resolver, clock, timers, background, faults) = Default::default();
        Self { settings, resolver, clock, timers, background, faults }
    }

    /// Logs a fault that occurred beside requests, so that no request reports it.
    pub(super) fn tell(&self, fault: &StoreError, consequence: &str) {
        if let Some(untold) = self.faults.is_news(fault, consequence, self.clock.now_ms()) {
            let cause = std::error::Error::source(fault).map(ToString::to_string);
            let untold = Some(untold).filter(|&untold| untold > 0);
            warn!(fault = fault.word("redis").to_string(), error = %fault, cause, untold, "{consequence}");
        }
    }
}
