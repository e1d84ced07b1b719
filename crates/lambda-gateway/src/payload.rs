//! The bytes of an event, before anything is made of them.

use std::cell::Cell;
use std::mem;
use std::task::{Context, Poll};

use bytes::Bytes;
use lambda_http::lambda_runtime::LambdaInvocation;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tower_layer::Layer;
use tower_service::Service;

thread_local! {
    /// The event that a call is about, until its [`Payload`] is made.
    static EVENT: Cell<Option<Bytes>> = const { Cell::new(None) };
}

/// An event as Lambda sent it, whatever that was.
#[derive(Clone, Debug)]
pub struct Payload(Bytes);

impl Payload {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl<T: Into<Bytes>> From<T> for Payload {
    fn from(event: T) -> Self {
        Self(event.into())
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match EVENT.take() {
            Some(event) => IgnoredAny::deserialize(deserializer).map(|_| Self(event)),
            None => Box::<RawValue>::deserialize(deserializer)
                .map(|event| Self(Box::<str>::from(event).into_string().into())),
        }
    }
}

/// Lets a [`Gateway`](crate::Gateway) answer events that are not JSON: a layer for
/// [`Runtime::layer`](lambda_http::lambda_runtime::Runtime::layer), the first one, so that nothing lies between it
/// and the runtime's own services. [`run`](crate::run) has it.
///
/// `lambda_runtime` reads an event as JSON before it calls the handler. An event that is none (a gateway hands on what
/// a client sends, and that need not be UTF-8) ends as a function error there. So this layer hands on the event past
/// that step, which also costs less than reading it twice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Payloads;

impl<S> Layer<S> for Payloads {
    type Service = WithPayloads<S>;

    fn layer(&self, inner: S) -> WithPayloads<S> {
        WithPayloads { inner }
    }
}

/// The service that [`Payloads`] makes of the runtime's.
#[derive(Clone, Debug)]
pub struct WithPayloads<S> {
    inner: S,
}

impl<S: Service<LambdaInvocation>> Service<LambdaInvocation> for WithPayloads<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut invocation: LambdaInvocation) -> Self::Future {
        // The runtime's service makes the payload within its `call`.
        EVENT.set(Some(mem::replace(&mut invocation.body, Bytes::from_static(b"null"))));
        let answer = self.inner.call(invocation);
        EVENT.set(None);
        answer
    }
}
