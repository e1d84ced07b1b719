//! The kinds of gateways.

/// The form of an event, and so of the reply to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Payload 1.0: of a REST API, or of an HTTP API that is set to it.
    V1,
    /// Payload 2.0: of an HTTP API or a function URL.
    V2,
    /// Of an Application Load Balancer.
    Alb,
    /// None of these, so the reply must be one that all of them can read.
    Unknown,
}
