//! The raw bytes of an event.

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
    /// The event of the current call, until its [`Payload`] is built.
    static EVENT: Cell<Option<Bytes>> = const { Cell::new(None) };
}

/// An event exactly as Lambda sent it.
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

/// Lets a [`Gateway`](crate::Gateway) answer events that are not JSON. Add it as the first
/// [`Runtime::layer`](lambda_http::lambda_runtime::Runtime::layer), so that nothing comes between it and the runtime's
/// own services. [`run`](crate::run) does so.
///
/// `lambda_runtime` parses an event as JSON before it calls the handler, so an event that is not JSON ends with a
/// function error (a gateway passes on what a client sends, which need not even be UTF-8). This layer passes the event
/// around that step, which also costs less than parsing it twice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Payloads;

impl<S> Layer<S> for Payloads {
    type Service = WithPayloads<S>;

    fn layer(&self, inner: S) -> WithPayloads<S> {
        WithPayloads { inner }
    }
}

/// The service that [`Payloads`] wraps around the runtime's.
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
        // The runtime's service builds the payload within its `call`.
        EVENT.set(Some(mem::replace(&mut invocation.body, Bytes::from_static(b"null"))));
        let answer = self.inner.call(invocation);
        EVENT.set(None);
        answer
    }
}
