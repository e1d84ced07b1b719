//! Audits of hits, against a real Redis: they detect and repair a lost invalidation, and do not count a late one as
//! lost.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use response_boost::{
    AfterReplyLayer, CacheKey, Deadline, Namespace, Policy, Recorder, RedisSettings, RedisStore,
    Report, ResponseCacheLayer, ValueCache,
};
use test_peers::redis::RedisServer;
use test_peers::{PATIENCE, wait_for};
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};

const GRACE: Duration = Duration::from_millis(100);
const DOWN: u32 = u32::MAX;

type Cache = ResponseCacheLayer<RedisStore, fn(&Request<()>) -> Option<CacheKey>>;

fn key_of(path: &str) -> CacheKey {
    Namespace::parse("contract").unwrap().key([path])
}

/// A service that responds with its version, and a cache in front of it.
struct Process {
    cache: Cache,
    version: Arc<AtomicU32>,
    content_type: &'static str,
    is_frozen: bool,
}

impl Process {
    fn new(redis: &RedisServer, policy: Policy) -> Self {
        let by_path: fn(&Request<()>) -> Option<CacheKey> =
            |request| Some(key_of(request.uri().path()));
        let cache = ResponseCacheLayer::new(store(redis), policy, by_path);
        let version = Arc::new(AtomicU32::new(1));
        Self { cache, version, content_type: "text/plain", is_frozen: true }
    }

    /// Writes a new version without invalidating the entry.
    fn write(&self, version: u32) {
        self.version.store(version, Ordering::SeqCst);
    }

    /// The response, and the report once the work after the reply is done.
    async fn get(&self, path: &str) -> (String, Report) {
        let (version, content_type) = (Arc::clone(&self.version), self.content_type);
        let service = self.cache.layer(service_fn(move |_: Request<()>| {
            let version = version.load(Ordering::SeqCst);
            let status = if version == DOWN { 503 } else { 200 };
            let body = Full::<Bytes>::from(version.to_string());
            let response = Response::builder().status(status).header("content-type", content_type);
            async move { Ok::<_, Infallible>(response.body(body).unwrap()) }
        }));
        let mut request = Request::new(());
        *request.uri_mut() = path.parse().unwrap();
        request.extensions_mut().insert(Deadline::after(PATIENCE));
        let recorder = Recorder::default();
        let response = if self.is_frozen {
            let layer = AfterReplyLayer::new(|_: &Request<()>| Deadline::after(PATIENCE));
            let mut gateway = layer.layer(service);
            recorder.watch(async { gateway.ready().await.unwrap().call(request).await }).await
        } else {
            recorder.watch(service.oneshot(request)).await
        };
        let body = response.unwrap().into_body().collect().await.unwrap().to_bytes();
        (String::from_utf8(body.to_vec()).unwrap(), recorder.report())
    }
}

fn store(redis: &RedisServer) -> RedisStore {
    let settings = RedisSettings::parse(&redis.url()).unwrap();
    RedisStore::new(settings.with_connect_timeout(PATIENCE).with_response_timeout(PATIENCE))
}

fn policy(grace: Duration) -> Policy {
    let policy = Policy::new(Duration::from_mins(10)).with_deadline(PATIENCE);
    policy.with_early_refresh(0.0).unwrap().with_audit(1.0, grace).unwrap()
}

#[tokio::test]
async fn a_lost_invalidation_is_found_and_healed_each_time() {
    let redis = RedisServer::start().await;
    let process = Process::new(&redis, policy(GRACE));
    let paths: Vec<String> = (0..100).map(|number| format!("/{number}")).collect();
    for path in &paths {
        process.get(path).await;
    }
    process.write(2);
    let mut found = 0;
    for path in &paths {
        let (body, report) = process.get(path).await;
        assert_eq!((body.as_str(), report.audited, report.refreshes), ("1", 1, 0));
        found += report.audit_stale;
    }
    // By now the grace period of every suspect is over.
    tokio::time::sleep(GRACE).await;
    let (_, report) = process.get("/another").await;
    found += report.audit_stale;
    for path in &paths {
        let (body, report) = process.get(path).await;
        assert_eq!((body.as_str(), report.audit_raced), ("2", 0), "{path}");
    }
    assert_eq!(found, 100);
}

#[tokio::test]
async fn a_suspect_is_not_audited_again_within_its_grace() {
    let redis = RedisServer::start().await;
    let process = Process::new(&redis, policy(Duration::from_mins(10)));
    process.get("/").await;
    process.write(2);
    let mut audits = Vec::new();
    for _ in 0..3 {
        let (body, report) = process.get("/").await;
        audits.push((body, report.audited, report.audit.is_some()));
    }
    let not = || ("1".to_owned(), 0, false);
    assert_eq!(audits, [("1".to_owned(), 1, true), not(), not()]);
    // A new entry under the same key is not a suspect.
    redis.command::<()>(&["DEL", key_of("/").as_str()]);
    assert_eq!(process.get("/").await.0, "2");
    assert_eq!(process.get("/").await.1.audited, 1);
}

/// The audit removes only the entry that it suspected, because another one may be stored under the key at any time.
#[tokio::test]
async fn an_entry_that_has_replaced_the_suspect_stays() {
    let redis = RedisServer::start().await;
    let process = Process::new(&redis, policy(GRACE));
    process.get("/").await;
    process.write(2);
    assert_eq!(process.get("/").await.1.audited, 1);
    let key = key_of("/");
    redis.command::<()>(&["DEL", key.as_str()]);
    let another = Process::new(&redis, policy(GRACE).with_audit(0.0, GRACE).unwrap());
    another.write(2);
    another.get("/").await;
    let commands = redis.monitor();
    tokio::time::sleep(GRACE).await;
    let (body, report) = process.get("/").await;
    assert_eq!((body.as_str(), report.audit_raced, report.audit_stale), ("2", 1, 0));
    assert!(redis.command::<bool>(&["EXISTS", key.as_str()]));
    // Check and removal are one command, so no other command comes between them.
    let commands = commands.until_now(&redis);
    let removals = commands.iter().filter(|line| line.contains(r#""DEL""#)).count();
    let looks = commands.iter().filter(|line| line.contains(r#"] "GET""#)).count();
    assert_eq!((removals, looks), (0, 1), "{commands:?}");
}

#[tokio::test]
async fn a_removed_suspect_leaves_room_for_the_next_load_to_be_stored() {
    let redis = RedisServer::start().await;
    let process = Process::new(&redis, policy(Duration::ZERO));
    process.get("/").await;
    process.write(2);
    // Each request checks the suspects before its own audit adds one.
    assert_eq!(process.get("/").await.1.audited, 1);
    let mut found = process.get("/").await.1.audit_stale;
    assert_eq!(found, 1);
    let key = key_of("/");
    wait_for("the entry to go", || {
        (!redis.command::<bool>(&["EXISTS", key.as_str()])).then_some(())
    })
    .await;
    let (body, report) = process.get("/").await;
    assert_eq!((body.as_str(), report.load.is_some()), ("2", true));
    let (body, report) = process.get("/").await;
    found += report.audit_stale;
    assert_eq!((body.as_str(), report.load, found), ("2", None, 1));
}

#[tokio::test]
async fn a_body_that_is_to_be_read_in_another_way_is_a_difference_too() {
    let redis = RedisServer::start().await;
    let process = Process::new(&redis, policy(Duration::ZERO));
    process.get("/").await;
    assert_eq!(
        [process.get("/").await.1, process.get("/").await.1].map(|it| it.audit_stale),
        [0; 2]
    );
    let process = Process { content_type: "text/html", ..process };
    assert_eq!(process.get("/").await.1.audited, 1);
    assert_eq!(process.get("/").await.1.audit_stale, 1);
}

#[tokio::test]
async fn on_a_server_a_timer_looks_for_the_suspect() {
    let redis = RedisServer::start().await;
    let process = Process { is_frozen: false, ..Process::new(&redis, policy(GRACE)) };
    process.get("/").await;
    process.write(2);
    assert_eq!(process.get("/").await.0, "1");
    let key = key_of("/");
    wait_for("the entry to go", || {
        (!redis.command::<bool>(&["EXISTS", key.as_str()])).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_invalidation_that_comes_within_the_grace_is_not_lost() {
    let redis = RedisServer::start().await;
    let process = Process::new(&redis, policy(GRACE));
    process.get("/").await;
    process.write(2);
    assert_eq!(process.get("/").await.1.audited, 1);
    let key = key_of("/");
    redis.command::<()>(&["DEL", key.as_str()]);
    tokio::time::sleep(GRACE).await;
    let (body, report) = process.get("/").await;
    assert_eq!((body.as_str(), report.audit_raced, report.audit_stale), ("2", 1, 0));
}

#[tokio::test]
async fn an_invalidation_of_a_tag_is_not_lost_either() {
    let redis = RedisServer::start().await;
    let tag = Namespace::parse("contract").unwrap().whole();
    let process = Process::new(&redis, policy(GRACE).with_tag(tag.clone()));
    process.get("/").await;
    process.write(2);
    assert_eq!(process.get("/").await.1.audited, 1);
    process.cache.invalidate_tag(&tag).await.unwrap();
    tokio::time::sleep(GRACE).await;
    // The entry is still stored, but its tag is gone.
    let (body, report) = process.get("/another").await;
    assert_eq!((body.as_str(), report.audit_raced, report.audit_stale), ("2", 1, 0));
    assert_eq!(process.get("/").await.0, "2");
}

#[tokio::test]
async fn a_load_that_fails_says_nothing_of_the_entry() {
    let redis = RedisServer::start().await;
    let process = Process::new(&redis, policy(Duration::ZERO));
    process.get("/").await;
    process.write(DOWN);
    for _ in 0..3 {
        let (body, report) = process.get("/").await;
        assert_eq!((body.as_str(), report.audited, report.audit_stale), ("1", 0, 0));
        assert!(report.audit.is_some());
    }
    assert_eq!(process.get("/").await.0, "1");
}

#[tokio::test]
async fn no_hit_is_audited_unless_the_policy_says_so() {
    let redis = RedisServer::start().await;
    let policy = policy(GRACE).with_audit(0.0, GRACE).unwrap();
    let process = Process::new(&redis, policy);
    process.get("/").await;
    process.write(2);
    let (_, report) = process.get("/").await;
    assert_eq!((report.audit, report.audited, report.after_reply), (None, 0, None));
}

#[tokio::test]
async fn values_are_audited_too() {
    let redis = RedisServer::start().await;
    let namespace = Namespace::parse("contract").unwrap();
    let values: ValueCache<u32, _> = ValueCache::new(store(&redis), policy(GRACE), namespace);
    let get = async |version: u32| {
        let load = move || async move { Ok::<_, Infallible>(Some(version)) };
        values.get_or_load(["value"], load).await.unwrap().unwrap()
    };
    assert_eq!([get(1).await, get(1).await, get(2).await], [1; 3]);
    wait_for("the value to go", || {
        (!redis.command::<bool>(&["EXISTS", "contract:value"])).then_some(())
    })
    .await;
    assert_eq!(get(2).await, 2);
}

/// Audits `AUDIT_HITS` hits while the data changes. Each change is invalidated after a delay, as by a stream.
#[tokio::test]
async fn a_stream_that_is_behind_raises_no_alarm() {
    let (hits, behind) = match std::env::var("AUDIT_HITS") {
        Ok(hits) => (hits.parse().unwrap(), Duration::from_secs(1)),
        Err(_) => (2_000, Duration::from_millis(100)),
    };
    let redis = RedisServer::start().await;
    let grace = 5 * behind;
    // Suspects are not audited, so the writes are spread over many keys, each with a process of its own.
    let processes: Vec<_> = (0..50).map(|_| Process::new(&redis, policy(grace))).collect();
    let paths: Vec<String> = (0..processes.len()).map(|number| format!("/{number}")).collect();
    let (mut audited, mut raced, mut writes) = (0, 0, 0);
    let mut pending: Vec<(Instant, usize)> = Vec::new();
    let mut rest = None::<Instant>;
    for number in (0..processes.len()).cycle() {
        if rest.is_some_and(|rest: Instant| rest.elapsed() >= grace + behind) {
            break;
        }
        // Invalidates what is due before the next request, however busy the machine is.
        pending.retain(|(written, number)| {
            let is_due = written.elapsed() >= behind;
            if is_due {
                redis.command::<()>(&["DEL", key_of(&paths[*number]).as_str()]);
            }
            !is_due
        });
        if audited >= writes * 100 && audited < hits {
            writes += 1;
            let written = usize::try_from(writes).unwrap() * 7 % processes.len();
            processes[written].write(writes + 1);
            pending.push((Instant::now(), written));
        }
        if audited >= hits && rest.is_none() {
            rest = Some(Instant::now());
        }
        let (_, report) = processes[number].get(&paths[number]).await;
        assert_eq!(report.audit_stale, 0, "after {audited} audited hits");
        (audited, raced) = (audited + report.audited, raced + report.audit_raced);
    }
    println!("{audited} audited hits, {writes} writes, {raced} raced");
    assert!(raced > 0);
}
