//! Tags: one call invalidates a group of entries, whatever named them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use http_body_util::Full;
use response_boost::{
    DynStore, Keep, MemoryStore, Namespace, Policy, Recorder, RedisSettings, RedisStore,
    ResponseCacheLayer, Store, Tag, ValueCache, ValueError, invalidate_changes,
};
use test_peers::cluster::{Cluster, Shape};
use test_peers::redis::{Monitor, RedisServer, info};
use test_peers::{PATIENCE, wait_for};
use tower::{Layer as _, ServiceExt as _, service_fn};

type Request = http::Request<()>;
type Cache<S> = ResponseCacheLayer<S, fn(&Request) -> Option<response_boost::CacheKey>>;

const A_MINUTE: Duration = Duration::from_mins(1);

fn namespace() -> Namespace {
    Namespace::parse("users").unwrap()
}

fn tag(name: &str) -> Tag {
    namespace().tag(name).unwrap()
}

fn policy() -> Policy {
    Policy::new(A_MINUTE).with_deadline(PATIENCE)
}

fn settings(url: &str) -> RedisSettings {
    let settings = RedisSettings::parse(url).unwrap();
    settings.with_connect_timeout(PATIENCE).with_response_timeout(PATIENCE)
}

fn redis(server: &RedisServer) -> RedisStore {
    RedisStore::new(settings(&server.url()))
}

/// `/a/x,y` has the key `users:a`.
fn plain<S: Store>(store: S, policy: Policy) -> Cache<S> {
    ResponseCacheLayer::new(store, policy, |request| {
        Some(namespace().key([request.uri().path().split('/').nth(1).unwrap()]))
    })
}

/// The same, and the request names the tags `x` and `y`.
fn tagged<S: Store>(store: S, policy: Policy) -> Cache<S> {
    plain(store, policy).with_tags(|request| {
        let names = request.uri.path().split('/').nth(2).unwrap_or_default();
        names.split(',').filter(|name| !name.is_empty()).map(|name| namespace().tag(name)).collect()
    })
}

/// The response and cache status for a path, if the inner service responds like this.
async fn get_from<S: Store>(
    cache: &Cache<S>,
    path: &str,
    answer: impl AsyncFnOnce() -> Response<&'static str>,
) -> (u16, String) {
    let answer = answer().await.map(|body| Full::new(Bytes::from(body)));
    let service = service_fn(move |_: Request| {
        let answer = answer.clone();
        async move { Ok::<_, Infallible>(answer) }
    });
    let request = http::Request::builder().uri(path).body(()).unwrap();
    let response = cache.layer(service).oneshot(request).await.unwrap();
    let status = response.headers()["cache-status"].to_str().unwrap();
    let status = status.strip_prefix("response-boost; ").unwrap().to_owned();
    (response.status().as_u16(), status)
}

async fn get<S: Store>(cache: &Cache<S>, path: &str) -> String {
    get_from(cache, path, async || Response::new("x")).await.1
}

fn is_hit(status: &str) -> bool {
    status.starts_with("hit")
}

/// The commands that the library sent meanwhile.
fn asked(monitor: Monitor, server: &RedisServer) -> Vec<String> {
    let commands = monitor.until_now(server).into_iter();
    commands.filter(|line| line.contains("users:")).collect()
}

const STORED: &str = "fwd=uri-miss; stored";

async fn a_tag_invalidates_all_that_have_it(store: impl Store) {
    let cache = tagged(Arc::new(store), policy());
    let paths = ["/1/a", "/2/a,b", "/3/b", "/4/a:b,c", "/5"];
    let hits = async || {
        let mut hits = Vec::new();
        for path in paths {
            hits.push(is_hit(&get(&cache, path).await));
        }
        hits
    };
    assert_eq!(hits().await, [false; 5]);
    assert_eq!(hits().await, [true; 5]);
    cache.invalidate_tag(&tag("a")).await.unwrap();
    assert_eq!(hits().await, [false, false, true, true, true]);
    assert_eq!(hits().await, [true; 5]);
    cache.invalidate_tag(&tag("b")).await.unwrap();
    cache.invalidate_tag(&tag("nobody's")).await.unwrap();
    assert_eq!(hits().await, [true, false, false, true, true]);
    cache.invalidate_tag(&tag("a:b")).await.unwrap();
    assert_eq!(hits().await, [true, true, true, false, true]);
}

#[tokio::test]
async fn a_tag_invalidates_all_that_have_it_in_redis() {
    a_tag_invalidates_all_that_have_it(redis(&RedisServer::start().await)).await;
}

#[tokio::test]
async fn a_tag_invalidates_all_that_have_it_in_memory() {
    a_tag_invalidates_all_that_have_it(MemoryStore::default()).await;
}

#[tokio::test]
async fn a_tag_invalidates_all_that_have_it_in_a_cluster() {
    let cluster = Cluster::of(Shape { primaries: 3, has_replicas: false, is_tls: false }).await;
    let store = RedisStore::new(settings(&cluster.url(0)).with_cluster());
    a_tag_invalidates_all_that_have_it(store).await;
}

#[tokio::test]
async fn deleting_the_key_of_a_tag_invalidates_by_hand() {
    let server = RedisServer::start().await;
    let cache = tagged(redis(&server), policy());
    assert_eq!(get(&cache, "/1/team-7").await, STORED);
    assert!(is_hit(&get(&cache, "/1/team-7").await));
    assert_eq!(server.command::<u64>(&["DEL", "users:%tag:team-7"]), 1);
    assert_eq!(get(&cache, "/1/team-7").await, STORED);

    // What an entry says about its tags, and that the tags outlive it.
    let entry: String = server.command(&["GET", "users:1"]);
    let id: String = server.command(&["GET", "users:%tag:team-7"]);
    let tags = format!(r#""tags":[["users:%tag:team-7","{id}"]],"body_bytes":1}}"#);
    assert!(entry.contains(&tags), "{entry}");
    let life: i64 = server.command(&["TTL", "users:%tag:team-7"]);
    assert!(life > 12 * 3_600, "{life}");
    assert_eq!(server.command::<Vec<String>>(&["KEYS", "*"]).len(), 2);
}

#[tokio::test]
async fn a_hit_is_one_command_with_tags_and_without_tags_the_same_as_ever() {
    let server = RedisServer::start().await;
    let mut connection = server.connect();
    let (none, with) = (plain(redis(&server), policy()), tagged(redis(&server), policy()));
    for (cache, path, lookups) in [
        (&none, "/1", &["users:1"][..]),
        (&with, "/2", &["users:2"]),
        (&with, "/3/a", &["users:3", "users:%tag:a"]),
        (
            &with,
            "/4/a,b,c,d",
            &["users:4", "users:%tag:a", "users:%tag:b", "users:%tag:c", "users:%tag:d"],
        ),
    ] {
        assert_eq!(get(cache, path).await, STORED);
        let before = info(&mut connection, "total_net_input_bytes");
        // The test's own traffic.
        let own = info(&mut connection, "total_net_input_bytes") - before;
        let monitor = server.monitor();
        let before = info(&mut connection, "total_net_input_bytes");
        assert!(is_hit(&get(cache, path).await));
        let bytes = info(&mut connection, "total_net_input_bytes") - before - own;
        let asked = asked(monitor, &server);
        let name = if lookups.len() > 1 { "MGET" } else { "GET" };
        let command: Vec<_> = [name].into_iter().chain(lookups.iter().copied()).collect();
        let words: Vec<_> = command.iter().map(|word| format!("\"{word}\"")).collect();
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert!(asked[0].ends_with(&words.join(" ")), "{asked:?}");
        let sent = command.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
        let sent: usize = sent.map(|word| word.len()).sum();
        assert_eq!(bytes, sent as u64 + 4, "{path}");
    }
    // An entry without tags has the same format as before tags existed.
    let entry: String = server.command(&["GET", "users:1"]);
    assert!(!entry.contains("tags"), "{entry}");
    let with_function: String = server.command(&["GET", "users:2"]);
    assert_eq!(entry.len(), with_function.len());
}

#[tokio::test]
async fn what_is_no_entry_is_replaced_where_there_are_tags_too() {
    let server = RedisServer::start().await;
    let cache = tagged(redis(&server), policy());
    for no_entry in [&["HSET", "users:1", "a", "b"][..], &["SET", "users:1", "x"]] {
        server.command::<()>(no_entry);
        let status = get(&cache, "/1/a").await;
        assert!(status.starts_with("fwd=uri-miss") && status.contains("stored"), "{status}");
        assert!(is_hit(&get(&cache, "/1/a").await));
        server.command::<()>(&["DEL", "users:1"]);
    }
    // The same for the key of a tag.
    server.command::<()>(&["DEL", "users:%tag:a"]);
    server.command::<()>(&["HSET", "users:%tag:a", "a", "b"]);
    assert_eq!(get(&cache, "/1/a").await, STORED);
    assert!(is_hit(&get(&cache, "/1/a").await));
    server.command::<()>(&["SET", "users:%tag:a", "no id"]);
    assert_eq!(get(&cache, "/1/a").await, "fwd=uri-miss; detail=redis-error");
    server.command::<()>(&["DEL", "users:%tag:a", "users:1"]);
    assert_eq!(get(&cache, "/1/a").await, STORED);
}

#[tokio::test]
async fn without_the_right_to_mget_each_key_is_asked_for() {
    let server = RedisServer::start().await;
    let user = "ACL SETUSER app on >pw ~users:* +@all -mget";
    server.command::<()>(&user.split(' ').collect::<Vec<_>>());
    let url = server.url().replace("://", "://app:pw@");
    let cache = tagged(RedisStore::new(settings(&url)), policy());
    assert_eq!(get(&cache, "/1/a,b").await, STORED);
    assert!(is_hit(&get(&cache, "/1/a,b").await));
    cache.invalidate_tag(&tag("b")).await.unwrap();
    assert_eq!(get(&cache, "/1/a,b").await, STORED);
}

#[tokio::test]
async fn an_invalidation_is_two_commands_however_many_entries_there_are() {
    let server = RedisServer::start().await;
    let cache = tagged(redis(&server), policy());
    for id in 0..100 {
        assert_eq!(get(&cache, &format!("/{id}/a")).await, STORED);
    }
    let monitor = server.monitor();
    cache.invalidate_tag(&tag("a")).await.unwrap();
    let commands = asked(monitor, &server);
    assert_eq!(commands.len(), 2, "{commands:?}");
    assert!(commands[0].ends_with(r#""DEL" "users:%changes""#), "{commands:?}");
    assert!(commands[1].ends_with(r#""DEL" "users:%tag:a""#), "{commands:?}");
    for id in 0..100 {
        assert_eq!(get(&cache, &format!("/{id}/a")).await, STORED);
    }
}

#[tokio::test]
async fn a_whole_namespace_is_a_tag_that_a_policy_can_give() {
    let store = Arc::new(MemoryStore::default());
    let all = plain(Arc::clone(&store), policy().with_tag(namespace().whole()));
    let before = plain(store, policy());
    assert_eq!(get(&before, "/1").await, STORED);
    // A miss: the tag would not invalidate an entry from a release that did not give it the tag.
    assert_eq!(get(&all, "/1").await, STORED);
    assert_eq!(get(&all, "/2").await, STORED);
    assert!(is_hit(&get(&all, "/1").await) && is_hit(&get(&all, "/2").await));
    // The policy without tags also checks the tags of the entry.
    assert!(is_hit(&get(&before, "/1").await));
    all.invalidate_tag(&namespace().whole()).await.unwrap();
    assert_eq!(get(&before, "/1").await, STORED);
    assert_eq!(get(&all, "/2").await, STORED);
}

#[tokio::test]
async fn what_has_bad_tags_is_answered_and_not_stored() {
    let server = RedisServer::start().await;
    let cache = tagged(redis(&server), policy());
    let long = format!("/1/a,{}", "x".repeat(129));
    for path in ["/1/a,b,c,d,e,f,g,h,i", &long] {
        for _ in 0..2 {
            assert_eq!(get(&cache, path).await, "fwd=uri-miss; detail=tags");
        }
    }
    assert_eq!(server.command::<u64>(&["DBSIZE"]), 0);
    // A tag that is named twice counts once.
    assert_eq!(get(&cache, "/1/a,b,c,d,e,f,g,h,a").await, STORED);

    // With the request's tags, those of the response are too many.
    let cache = tagged(redis(&server), policy().with_response_tags(namespace()));
    let nine = |names: &[&str]| {
        let mut response = Response::new("x");
        response.extensions_mut().insert(Keep::tagged(names.iter().map(|name| tag(name))));
        response
    };
    let path = "/2/a,b,c,d,e,f,g";
    let not_stored = async |path| get_from(&cache, path, async || nine(&["g", "h", "i"])).await.1;
    assert_eq!(not_stored(path).await, "fwd=uri-miss; detail=tags");
    assert!(server.command::<String>(&["GET", "users:2"]).starts_with("pass:"));
    // The policy does not let responses name tags.
    let cache = plain(redis(&server), policy());
    let stored = get_from(&cache, "/3", async || nine(&["a"])).await.1;
    assert_eq!(stored, "fwd=uri-miss; detail=tags");
}

/// Waits until the entry is stale; entries of these tests may be served stale for a minute.
async fn past_its_freshness(server: &RedisServer) {
    wait_for("the entry to be past its freshness", || {
        let left: i64 = server.command(&["PTTL", "users:1"]);
        (left < 60_000).then_some(())
    })
    .await;
}

/// Longer than a load takes.
const SHORT: Duration = Duration::from_millis(150);

/// The service fails, so the cache would serve the entry.
#[tokio::test]
async fn an_entry_with_a_dead_tag_is_never_served_instead_of_a_failure() {
    let server = RedisServer::start().await;
    for policy in [
        policy().with_stale_if_error(A_MINUTE),
        policy().with_stale_while_revalidate(A_MINUTE),
        policy().with_stale_while_revalidate(A_MINUTE).with_stale_if_error(A_MINUTE),
    ] {
        for by_request in [true, false] {
            let policy = policy.clone().with_response_tags(namespace());
            let cache = tagged(redis(&server), policy);
            let path = if by_request { "/1/a" } else { "/1" };
            let old = async || {
                let mut response = Response::new("x");
                // The entry is stale soon after its load.
                let keep = Keep::new(SHORT);
                let keep = if by_request { keep } else { keep.with_tags([tag("a")]) };
                response.extensions_mut().insert(keep);
                response
            };
            let failed = async || Response::builder().status(503).body("").unwrap();
            let stored = get_from(&cache, path, old).await.1;
            assert_eq!(stored, STORED);
            // The stale entry is served.
            past_its_freshness(&server).await;
            let (status, _) = get_from(&cache, path, failed).await;
            assert_eq!(status, 200);
            cache.invalidate_tag(&tag("a")).await.unwrap();
            for _ in 0..2 {
                let (status, cache_status) = get_from(&cache, path, failed).await;
                assert_eq!(status, 503, "{cache_status}");
            }
            server.command::<()>(&["FLUSHALL"]);
        }
    }
}

fn names(tags: &[&str]) -> Response<&'static str> {
    let mut response = Response::new("x");
    response.extensions_mut().insert(Keep::tagged(tags.iter().map(|name| tag(name))));
    response
}

#[tokio::test]
async fn tags_that_only_the_response_knows_invalidate_it_too() {
    let server = RedisServer::start().await;
    let cache = tagged(redis(&server), policy().with_cache_tag_header(namespace()));
    let by_keep = async || names(&["team-7", "b"]);
    let by_header = async || Response::builder().header("cache-tag", "team-7,b").body("x").unwrap();
    for path in ["/1", "/1/a"] {
        for tag_name in ["team-7", "b"] {
            assert_eq!(get_from(&cache, path, by_keep).await.1, STORED);
            assert!(is_hit(&get(&cache, path).await));
            cache.invalidate_tag(&tag(tag_name)).await.unwrap();
            assert_eq!(get_from(&cache, path, by_header).await.1, STORED);
            assert!(is_hit(&get(&cache, path).await));
            server.command::<u64>(&["DEL", &format!("users:%tag:{tag_name}")]);
        }
        server.command::<()>(&["FLUSHALL"]);
    }
    // A cache whose policy has no tags still checks those of the entry.
    assert_eq!(get_from(&cache, "/2", by_keep).await.1, STORED);
    let other = plain(redis(&server), policy());
    assert!(is_hit(&get(&other, "/2").await));
    other.invalidate_tag(&tag("team-7")).await.unwrap();
    assert_eq!(get(&other, "/2").await, STORED);
}

#[tokio::test]
async fn clients_do_not_see_the_tags_of_a_response() {
    let cache = plain(MemoryStore::default(), policy().with_cache_tag_header(namespace()));
    for (status, cache_status) in [(200, "stored"), (200, "hit"), (500, "detail=status")] {
        let service = service_fn(move |_: Request| async move {
            let response = Response::builder().status(status).header("cache-tag", "a");
            Ok::<_, Infallible>(response.body(Full::new(Bytes::from("x"))).unwrap())
        });
        let path = if status == 200 { "/1" } else { "/2" };
        let request = http::Request::builder().uri(path).body(()).unwrap();
        let response = cache.layer(service).oneshot(request).await.unwrap();
        assert!(response.headers()["cache-status"].to_str().unwrap().contains(cache_status));
        assert_eq!(response.headers().get("cache-tag"), None);
    }
}

/// Loads a response, and calls `happens` during the load.
async fn load_while<S: Store>(
    cache: &Cache<S>,
    path: &str,
    response: Response<&'static str>,
    happens: impl AsyncFn() + Clone,
) -> String {
    let (begun, may_end) = (tokio::sync::Notify::new(), tokio::sync::Notify::new());
    let (begun, may_end) = (Arc::new(begun), Arc::new(may_end));
    let service = {
        let (begun, may_end) = (Arc::clone(&begun), Arc::clone(&may_end));
        service_fn(move |_: Request| {
            let (begun, may_end) = (Arc::clone(&begun), Arc::clone(&may_end));
            let response = response.clone().map(|body| Full::new(Bytes::from(body)));
            async move {
                begun.notify_one();
                may_end.notified().await;
                Ok::<_, Infallible>(response)
            }
        })
    };
    let request = http::Request::builder().uri(path).body(()).unwrap();
    let answered = cache.layer(service).oneshot(request);
    let meanwhile = async {
        begun.notified().await;
        happens().await;
        may_end.notify_one();
    };
    let (response, ()) = tokio::join!(answered, meanwhile);
    response.unwrap().headers()["cache-status"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_was_loaded_before_an_invalidation_is_not_served_after_it() {
    let server = RedisServer::start().await;
    let cache = tagged(redis(&server), policy().with_response_tags(namespace()));
    let invalidate = async || cache.invalidate_tag(&tag("a")).await.unwrap();

    // Known before the load: the entry has an id that is gone.
    load_while(&cache, "/1/a", Response::new("x"), &invalidate).await;
    assert_eq!(get(&cache, "/1/a").await, STORED);

    // Known only after the load and never seen before: something in the namespace was invalidated.
    let status = load_while(&cache, "/2", names(&["a"]), &invalidate).await;
    assert!(status.ends_with("; fwd=uri-miss; detail=invalidated"), "{status}");
    // Nobody waits for a lease whose holder has nothing to store.
    assert_eq!(get(&cache, "/2").await, STORED);

    // By hand, deleting both keys has the same effect.
    let by_hand = async || {
        server.command::<()>(&["DEL", "users:%changes", "users:%tag:a"]);
    };
    let status = load_while(&cache, "/3", names(&["a"]), by_hand).await;
    assert!(status.ends_with("; detail=invalidated"), "{status}");

    // A tag of another namespace changes nothing here.
    let other = Namespace::parse("contract").unwrap().tag("a").unwrap();
    let invalidate = async || cache.invalidate_tag(&other).await.unwrap();
    let status = load_while(&cache, "/4", names(&["a"]), invalidate).await;
    assert!(status.ends_with("; stored"), "{status}");
}

#[tokio::test]
async fn a_refresh_after_the_reply_reads_the_ids_again() {
    let server = RedisServer::start().await;
    let cache = tagged(redis(&server), policy().with_stale_while_revalidate(A_MINUTE));
    let short = async || {
        let mut response = Response::new("x");
        response.extensions_mut().insert(Keep::new(SHORT));
        response
    };
    let id_of_entry = || {
        let entry: String = server.command(&["GET", "users:1"]);
        entry.split(r#"users:%tag:a",""#).nth(1).map(|rest| rest[..32].to_owned())
    };
    let stored_at = || server.command::<String>(&["GET", "users:1"])[..64].to_owned();
    assert_eq!(get_from(&cache, "/1/a", short).await.1, STORED);
    let before = stored_at();
    past_its_freshness(&server).await;
    let status = get(&cache, "/1/a").await;
    assert!(status.contains("refresh-after-reply"), "{status}");
    wait_for("the refresh", || (stored_at() != before).then_some(())).await;
    let id: String = server.command(&["GET", "users:%tag:a"]);
    assert_eq!(id_of_entry(), Some(id));
    assert!(is_hit(&get(&cache, "/1/a").await));
    cache.invalidate_tag(&tag("a")).await.unwrap();
    assert_eq!(get(&cache, "/1/a").await, STORED);
}

#[tokio::test]
async fn a_tag_outlives_an_entry_that_lives_longer_than_the_policy_says() {
    let server = RedisServer::start().await;
    let cache = tagged(redis(&server), policy().with_response_tags(namespace()));
    let thirty_days = Duration::from_hours(24 * 30);
    let kept = async || {
        let mut response = Response::new("x");
        response.extensions_mut().insert(Keep::new(thirty_days).with_tags([tag("b")]));
        response
    };
    assert_eq!(get_from(&cache, "/1/a", kept).await.1, STORED);
    for name in ["a", "b"] {
        let life: u64 = server.command(&["TTL", &format!("users:%tag:{name}")]);
        assert!(life > thirty_days.as_secs(), "{name}: {life}");
    }
    assert!(is_hit(&get(&cache, "/1/a").await));

    // The tag was invalidated during the load, so renewing it must not hide that.
    let invalidate = async || cache.invalidate_tag(&tag("c")).await.unwrap();
    let mut response = Response::new("x");
    response.extensions_mut().insert(Keep::new(thirty_days));
    let status = load_while(&cache, "/2/c", response, invalidate).await;
    assert!(status.ends_with("; detail=invalidated"), "{status}");
}

#[tokio::test]
async fn the_entries_of_a_sharded_tag_spread_and_die_together() {
    let server = RedisServer::start().await;
    let sharded = || tag("hot").with_shards(4);
    let cache = plain(redis(&server), policy().with_tag(sharded()));
    for id in 0..40 {
        assert_eq!(get(&cache, &format!("/{id}")).await, STORED);
        assert!(is_hit(&get(&cache, &format!("/{id}")).await));
    }
    let keys = ["users:%tag:hot", "users:%tag:hot:1", "users:%tag:hot:2", "users:%tag:hot:3"];
    for key in keys {
        assert_eq!(server.command::<u64>(&["EXISTS", key]), 1, "{key}");
    }
    let monitor = server.monitor();
    cache.invalidate_tag(&sharded()).await.unwrap();
    assert_eq!(asked(monitor, &server).len(), 5);
    for id in 0..40 {
        assert_eq!(get(&cache, &format!("/{id}")).await, STORED);
    }
}

/// A name whose tag is on this node.
fn tag_on(cluster: &Cluster, node: usize) -> String {
    let mut names = (0..).map(|number: u32| number.to_string());
    names.find(|name| cluster.primary_of(tag(name).as_str()) == node).unwrap()
}

#[tokio::test]
async fn a_fault_of_a_tags_node_is_a_bypass_and_fails_an_invalidation() {
    let mut cluster = Cluster::of(Shape { primaries: 3, has_replicas: false, is_tls: false }).await;
    let store = RedisStore::new(settings(&cluster.url(0)).with_cluster());
    let cache = tagged(store, policy());
    let on = |node: usize, prefix: &str| {
        let mut names = (0..).map(|number: u32| format!("{prefix}{number}"));
        let key = |name: &String| namespace().key([name]);
        names.find(|name| cluster.primary_of(key(name).as_str()) == node).unwrap()
    };
    let (entry, other) = (on(0, "a"), on(0, "b"));
    // Not the node with the id of changes, without which no invalidation could succeed.
    let changes = cluster.primary_of("users:%changes");
    let (victim, other_node) = if changes == 1 { (2, 1) } else { (1, 2) };
    let (gone, alive) = (tag_on(&cluster, victim), tag_on(&cluster, other_node));
    for path in [format!("/{entry}/{gone},{alive}"), format!("/{other}/{alive}")] {
        assert_eq!(get(&cache, &path).await, STORED);
        assert!(is_hit(&get(&cache, &path).await));
    }
    let hot = tag(&gone).with_shards(20);
    cache.invalidate_tag(&tag(&alive)).await.unwrap();
    cluster.nodes[victim].kill();

    let (status, cache_status) =
        get_from(&cache, &format!("/{entry}/{gone}"), async || Response::new("x")).await;
    assert_eq!(status, 200);
    assert!(cache_status.starts_with("fwd=bypass; detail="), "{cache_status}");
    assert_eq!(get(&cache, &format!("/{other}/{alive}")).await, STORED);
    assert!(is_hit(&get(&cache, &format!("/{other}/{alive}")).await));

    cache.invalidate_tag(&tag(&gone)).await.unwrap_err();
    // Some of its shards are gone, but not all.
    cache.invalidate_tag(&hot).await.unwrap_err();
    cache.invalidate_tag(&tag(&alive)).await.unwrap();
}

#[tokio::test]
async fn a_write_invalidates_tags_beside_keys() {
    let cache = tagged(MemoryStore::default(), policy())
        .with_tag_invalidation(|_| vec![tag("a")])
        .with_invalidation(|_| vec![namespace().key(["2"])]);
    for path in ["/1/a", "/2", "/3"] {
        assert_eq!(get(&cache, path).await, STORED);
    }
    for (status, are_hits) in [(409, [true; 3]), (204, [false, false, true])] {
        let service = service_fn(move |_: Request| async move {
            let response = Response::builder().status(status);
            Ok::<_, Infallible>(response.body(Full::new(Bytes::new())).unwrap())
        });
        let request =
            http::Request::builder().method(Method::PUT).uri("/users/1").body(()).unwrap();
        cache.layer(service).oneshot(request).await.unwrap();
        let mut hits = Vec::new();
        for path in ["/1/a", "/2", "/3"] {
            hits.push(is_hit(&get(&cache, path).await));
        }
        assert_eq!(hits, are_hits, "{status}");
    }
}

#[tokio::test]
async fn a_stream_of_changes_invalidates_the_tags_of_each() {
    let mut server = RedisServer::start().await;
    let cache = tagged(redis(&server), policy());
    for path in ["/1/team-1", "/2/team-2", "/3/team-3"] {
        assert_eq!(get(&cache, path).await, STORED);
    }
    let store = redis(&server);
    let changes = [1, 2, 1];
    let tags_of = |team: &u32| vec![tag(&format!("team-{team}"))];
    let monitor = server.monitor();
    invalidate_changes(&store, &changes, tags_of).await.unwrap();
    assert_eq!(asked(monitor, &server).len(), 3);
    for (path, is_invalidated) in [("/1/team-1", true), ("/2/team-2", true), ("/3/team-3", false)] {
        assert_eq!(get(&cache, path).await == STORED, is_invalidated);
    }
    server.kill();
    let undone = invalidate_changes(&store, &changes, tags_of).await.unwrap_err();
    assert_eq!(undone.first, 0);
    assert_eq!(undone.to_string(), "change 0 and those after it are not done");
}

#[tokio::test]
async fn values_have_tags_by_their_key_and_by_their_load() {
    let server = RedisServer::start().await;
    let policy = policy().with_response_tags(namespace()).with_not_found_ttl(A_MINUTE);
    let values = ValueCache::<u32, _>::new(redis(&server), policy, namespace())
        .with_tags(|key| Ok(vec![namespace().tag(&format!("of-{}", key.as_str()))?]));
    let loads = Arc::new(AtomicUsize::new(0));
    let load = async |id: &'static str| {
        let loads = Arc::clone(&loads);
        let load = async move || {
            loads.fetch_add(1, Ordering::SeqCst);
            let value = (id != "none").then_some(7);
            Ok::<_, Infallible>((value, Keep::tagged([tag("loaded")])))
        };
        values.get_or_load([id], load).await.unwrap()
    };
    for id in ["1", "2", "none"] {
        load(id).await;
        assert_eq!(load(id).await.is_some(), id != "none");
    }
    assert_eq!(loads.load(Ordering::SeqCst), 3);
    values.invalidate_tag(&tag("of-users:1")).await.unwrap();
    for id in ["1", "2", "none"] {
        load(id).await;
    }
    assert_eq!(loads.load(Ordering::SeqCst), 4);
    values.invalidate_tag(&tag("loaded")).await.unwrap();
    for id in ["1", "2", "none"] {
        load(id).await;
    }
    assert_eq!(loads.load(Ordering::SeqCst), 7);

    // A value that was loaded before an invalidation is not returned after it.
    values.invalidate(["1"]).await.unwrap();
    let recorder = Recorder::default();
    let invalidates = values.clone();
    let load = async move || {
        invalidates.invalidate_tag(&tag("another")).await.unwrap();
        Ok::<_, Infallible>((Some(1), Keep::tagged([tag("loaded")])))
    };
    recorder.watch(values.get_or_load(["1"], load)).await.unwrap();
    let status = recorder.report().status.unwrap().to_string();
    assert_eq!(status, "response-boost; fwd=uri-miss; detail=invalidated");
}

#[tokio::test]
async fn a_store_that_is_chosen_at_the_start_has_tags_too() {
    let server = RedisServer::start().await;
    let store: Arc<dyn DynStore> = Arc::new(redis(&server));
    let values = ValueCache::<u32, _>::new(Arc::clone(&store), policy(), namespace())
        .with_tags(|_| Ok(vec![tag("a")]));
    // A server spawns its handlers.
    let handler = tokio::spawn(async move {
        let load = async || Ok::<_, Infallible>(Some(1));
        values.get_or_load(["1"], load).await.unwrap();
        values.invalidate_tag(&tag("a")).await.unwrap();
        invalidate_changes(&store, &[1], |_| vec![tag("a")]).await.unwrap();
        let load = async || Ok::<_, Infallible>(Some(2));
        values.get_or_load(["1"], load).await
    });
    assert_eq!(handler.await.unwrap(), Ok(Some(2)));
}

#[tokio::test]
async fn a_value_with_a_dead_tag_is_not_returned_instead_of_an_error() {
    let server = RedisServer::start().await;
    let policy = policy().with_stale_if_error(A_MINUTE);
    let values = ValueCache::<u32, _>::new(redis(&server), policy, namespace())
        .with_tags(|_| Ok(vec![tag("a")]));
    let load = async || Ok::<_, &str>((Some(1), Keep::new(SHORT)));
    values.get_or_load(["1"], load).await.unwrap();
    past_its_freshness(&server).await;
    let fails = async || Err::<(Option<u32>, Keep), _>("down");
    assert_eq!(values.get_or_load(["1"], fails).await, Ok(Some(1)));
    values.invalidate_tag(&tag("a")).await.unwrap();
    assert_eq!(values.get_or_load(["1"], fails).await, Err(ValueError::Load("down")));
}

/// `TAG_ENTRIES` is how many.
#[tokio::test]
async fn a_tag_on_any_number_of_entries_is_invalidated_by_two_commands() {
    let entries = std::env::var("TAG_ENTRIES").map_or(20_000, |entries| entries.parse().unwrap());
    let sample = entries / 100;
    let server = RedisServer::start().await;
    let policy = Policy::new(60 * A_MINUTE).with_deadline(PATIENCE);
    let cache = tagged(redis(&server), policy);
    assert_eq!(get(&cache, "/0/a").await, STORED);
    // The others are like it, but for their key's hash.
    let entry: String = server.command(&["GET", "users:0"]);
    let hash = entry.split('"').nth(9).unwrap().to_owned();
    let mut connection = server.connect();
    for first in (1..entries).step_by(10_000) {
        let mut pipeline = redis::pipe();
        for id in first..(first + 10_000).min(entries) {
            let key = namespace().key([id.to_string()]);
            let entry = entry.replacen(&hash, &key_hash(key.as_str()), 1);
            pipeline.cmd("SET").arg(key.as_str()).arg(entry).arg("EX").arg(3_600).ignore();
        }
        pipeline.query::<()>(&mut connection).unwrap();
    }
    assert_eq!(server.command::<usize>(&["DBSIZE"]), entries + 1);
    let step = entries / sample;
    for id in (0..entries).step_by(step) {
        assert!(is_hit(&get(&cache, &format!("/{id}/a")).await), "{id}");
    }
    let commands = |connection: &mut _| info(connection, "total_commands_processed");
    let before = commands(&mut connection);
    cache.invalidate_tag(&tag("a")).await.unwrap();
    assert!(commands(&mut connection) - before - 1 <= 2);
    let mut misses = 0;
    for id in (0..entries).step_by(step) {
        misses += usize::from(get(&cache, &format!("/{id}/a")).await == STORED);
    }
    println!("{misses} misses of {sample} after 2 commands on {entries} entries");
    assert_eq!(misses, sample);
}

/// The first 128 bits of the SHA-256, in hex.
fn key_hash(key: &str) -> String {
    let secret = namespace().key(["x"]).with_secret("s", key);
    secret.as_str().split("=#").nth(1).unwrap().to_owned()
}
