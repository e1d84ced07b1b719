//! The entry codec and the path of a hit within the process, without sockets: time and allocations.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher};
use lambda_gateway::{Gateway, Payload, Reply};
use lambda_http::http::{HeaderValue, Method, Response};
use lambda_http::lambda_runtime::Diagnostic;
use lambda_http::tower::{Layer as _, Service, service_fn};
use lambda_http::{Body, Context, Error, LambdaEvent, Request};
use response_boost::{
    CacheKey, Entry, Expected, Found, MemoryStore, Namespace, Policy, ResponseCacheLayer, Store,
    StoreError,
};
use tokio::runtime::{Builder, Runtime};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const SIZES: [usize; 3] = [100, 10_000, 1_000_000];
const EVENT: &str = include_str!("../../../events/http-existing.json");
const A_DAY: Duration = Duration::from_hours(24);

fn main() {
    divan::main();
}

/// A JSON body, which has characters that a reply must escape.
fn body(bytes: usize) -> String {
    let item = r#"{"id":1,"name":"Manas"},"#;
    format!("[{}1]", item.repeat(bytes / item.len()))
}

fn key() -> CacheKey {
    Namespace::parse("bench").unwrap().key(["user", "1"])
}

/// Calls a gateway with an event, and returns the bytes of its reply.
fn answer<S>(mut gateway: Gateway<S>) -> impl FnMut(&Runtime) -> Vec<u8>
where
    Gateway<S>: Service<LambdaEvent<Payload>, Response = Reply, Error = Diagnostic>,
{
    move |runtime| {
        let payload = Payload::from(EVENT);
        let reply = gateway.call(LambdaEvent { payload, context: Context::default() });
        serde_json::to_vec(&runtime.block_on(reply).unwrap()).unwrap()
    }
}

/// The same with a cache over this store, around a service with a body of this size.
fn cached(store: impl Store, bytes: usize) -> impl FnMut(&Runtime) -> Vec<u8> {
    let policy = Policy::new(A_DAY).with_max_entry_bytes(usize::MAX);
    let cache = ResponseCacheLayer::new(store, policy, |request: &Request| {
        (request.method() == Method::GET).then(key)
    });
    let body = body(bytes);
    let service = service_fn(move |_: Request| {
        let mut response = Response::new(Body::from(body.clone()));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert("content-type", json);
        std::future::ready(Ok::<_, Error>(response))
    });
    answer(Gateway::new(cache.layer(service)))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

/// The bytes of an entry with a body of this size.
fn entry(bytes: usize) -> Bytes {
    let store = Arc::new(MemoryStore::with_capacity_bytes(usize::MAX));
    let runtime = runtime();
    cached(Arc::clone(&store), bytes)(&runtime);
    match runtime.block_on(store.get(&key())) {
        Ok(Found::Value(entry)) => entry,
        other => panic!("{other:?}"),
    }
}

/// A store that finds and stores nothing, as fast as possible.
struct Empty;

impl Store for Empty {
    async fn get(&self, _: &CacheKey) -> Result<Found, StoreError> {
        Ok(Found::Nothing)
    }

    async fn put(
        &self,
        _: &CacheKey,
        _: Expected<'_>,
        _: Bytes,
        _: Duration,
    ) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn delete(&self, _: &CacheKey) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Decodes an entry.
#[divan::bench(args = SIZES)]
fn decode(bencher: Bencher<'_, '_>, bytes: usize) {
    let (key, entry) = (key(), entry(bytes));
    bencher
        .counter(BytesCount::new(entry.len()))
        .bench_local(|| Entry::decode(&key, divan::black_box(&entry)).unwrap());
}

/// From an event to the bytes of its reply, with the entry in an in-process store.
#[divan::bench(args = SIZES)]
fn hit(bencher: Bencher<'_, '_>, bytes: usize) {
    let (runtime, store) = (runtime(), MemoryStore::with_capacity_bytes(usize::MAX));
    let mut answer = cached(store, bytes);
    answer(&runtime);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| answer(&runtime));
}

/// The same without an entry: load, hash, encode.
#[divan::bench(args = SIZES)]
fn miss(bencher: Bencher<'_, '_>, bytes: usize) {
    let runtime = runtime();
    let mut answer = cached(Empty, bytes);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| answer(&runtime));
}

/// The same without a cache.
#[divan::bench(args = SIZES)]
fn no_cache(bencher: Bencher<'_, '_>, bytes: usize) {
    let runtime = runtime();
    let body = body(bytes);
    let mut answer = answer(Gateway::new(service_fn(move |_: Request| {
        std::future::ready(Ok::<_, Error>(Response::new(Body::from(body.clone()))))
    })));
    bencher.counter(BytesCount::new(bytes)).bench_local(|| answer(&runtime));
}
