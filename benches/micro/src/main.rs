//! The entry codec and the path of a hit inside the process, without sockets: time and allocations.

use std::time::Duration;

use bytes::Bytes;
use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher};
use lambda_http::http::{HeaderValue, Method, Response};
use lambda_http::tower::{Layer as _, Service as _, service_fn};
use lambda_http::{Body, Context, Error, LambdaEvent, Request};
use response_boost::cache::{
    CacheKey, Entry, Expected, Found, MemoryStore, Namespace, Policy, ResponseCache, Store,
    StoreError,
};
use response_boost::event::Gateway;
use serde_json::value::RawValue;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const SIZES: [usize; 3] = [100, 10_000, 1_000_000];
const EVENT: &str = include_str!("../../../events/http-existing.json");
const A_DAY: Duration = Duration::from_hours(24);

fn main() {
    divan::main();
}

/// JSON, so that it has what must be escaped in a reply.
fn body(bytes: usize) -> String {
    let item = r#"{"id":1,"name":"Manas"},"#;
    format!("[{}1]", item.repeat(bytes / item.len()))
}

fn key() -> CacheKey {
    Namespace::parse("bench").unwrap().key(["user", "1"])
}

/// A gateway with a cache over this store around a service that answers with this body.
fn gateway(store: impl Store, bytes: usize) -> impl FnMut(&tokio::runtime::Runtime) -> Vec<u8> {
    let policy = Policy::new(A_DAY).with_max_entry_bytes(usize::MAX);
    let cache = ResponseCache::new(store, policy, |request: &Request| {
        (request.method() == Method::GET).then(key)
    });
    let body = body(bytes);
    let service = service_fn(move |_: Request| {
        let mut response = Response::new(Body::from(body.clone()));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert("content-type", json);
        std::future::ready(Ok::<_, Error>(response))
    });
    let mut gateway = Gateway::new(cache.layer(service));
    move |runtime| {
        let payload = RawValue::from_string(EVENT.to_owned()).unwrap();
        let answer = gateway.call(LambdaEvent { payload, context: Context::default() });
        serde_json::to_vec(&runtime.block_on(answer).unwrap()).unwrap()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// The bytes of an entry with a body of this size.
fn entry(bytes: usize) -> Bytes {
    let store = std::sync::Arc::new(MemoryStore::with_capacity_bytes(usize::MAX));
    let (runtime, shared) = (runtime(), Shared(std::sync::Arc::clone(&store)));
    gateway(shared, bytes)(&runtime);
    match runtime.block_on(store.get(&key())) {
        Ok(Found::Value(entry)) => entry,
        other => panic!("{other:?}"),
    }
}

/// A store that is asked by others, too.
struct Shared(std::sync::Arc<MemoryStore>);

impl Store for Shared {
    async fn get(&self, key: &CacheKey) -> Result<Found, StoreError> {
        self.0.get(key).await
    }

    async fn put(
        &self,
        key: &CacheKey,
        expected: Expected<'_>,
        value: Bytes,
        life: Duration,
    ) -> Result<bool, StoreError> {
        self.0.put(key, expected, value, life).await
    }

    async fn delete(&self, key: &CacheKey) -> Result<(), StoreError> {
        self.0.delete(key).await
    }
}

/// A store that finds nothing and keeps nothing, as fast as can be.
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

/// An entry out of its bytes.
#[divan::bench(args = SIZES)]
fn decode(bencher: Bencher<'_, '_>, bytes: usize) {
    let entry = entry(bytes);
    bencher
        .counter(BytesCount::new(entry.len()))
        .bench_local(|| Entry::decode(divan::black_box(&entry)).unwrap());
}

/// From an event to the bytes of its reply, by an entry in the process.
#[divan::bench(args = SIZES)]
fn hit(bencher: Bencher<'_, '_>, bytes: usize) {
    let (runtime, store) = (runtime(), MemoryStore::with_capacity_bytes(usize::MAX));
    let mut answer = gateway(store, bytes);
    answer(&runtime);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| answer(&runtime));
}

/// The same where there is no entry: load, hash, encode.
#[divan::bench(args = SIZES)]
fn miss(bencher: Bencher<'_, '_>, bytes: usize) {
    let runtime = runtime();
    let mut answer = gateway(Empty, bytes);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| answer(&runtime));
}

/// The same without a cache.
#[divan::bench(args = SIZES)]
fn no_cache(bencher: Bencher<'_, '_>, bytes: usize) {
    let runtime = runtime();
    let body = body(bytes);
    let mut gateway = Gateway::new(service_fn(move |_: Request| {
        std::future::ready(Ok::<_, Error>(Response::new(Body::from(body.clone()))))
    }));
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        let payload = RawValue::from_string(EVENT.to_owned()).unwrap();
        let answer = gateway.call(LambdaEvent { payload, context: Context::default() });
        serde_json::to_vec(&runtime.block_on(answer).unwrap()).unwrap()
    });
}
