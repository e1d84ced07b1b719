//! The kinds of gateways, each of which has its own event format.

/// The format of an event, and therefore of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Payload 1.0: a REST API, or an HTTP API configured for it.
    V1,
    /// Payload 2.0: an HTTP API or a function URL.
    V2,
    /// An Application Load Balancer.
    Alb,
    /// Unknown, so the reply must be one that every gateway can read.
    Unknown,
}
