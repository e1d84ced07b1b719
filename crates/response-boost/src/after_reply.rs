//! Work that a request leaves behind, to run after its reply. It must end before the next event, because Lambda freezes
//! the process in between.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Once, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tower_layer::Layer;
use tower_service::Service;
use tracing::warn;

use crate::Deadline;
use crate::clock::Clock;
use crate::report::timed;

tokio::task_local! {
    static LEFT: Left;
}

/// The share of the invocation's remaining time that the work may use, and a margin to subtract from that.
const SHARE: f64 = 0.9;
const MARGIN: Duration = Duration::from_millis(100);

/// A layer around a Lambda runtime: it finishes the work that requests leave behind, before the runtime asks for the
/// next event.
///
/// Lambda freezes an execution environment once it asks for its next event, and thaws it when one arrives. A task
/// spawned for a request stops during the freeze: an attempt to connect would progress by a few milliseconds with each
/// request and never complete. But after a custom runtime has posted its reply, it may keep working until it asks for
/// the next event, while the client already has its answer. This layer uses that time to:
///
/// - open, replace or probe a connection to Redis, for a second at most; while that fails, the cache backs off to once
///   in five seconds;
/// - release a lease whose load did not complete;
/// - retry an invalidation that failed, or run one whose request was cancelled;
/// - load an entry that is about to expire, or that is stale but within the window of
///   [`Policy::with_stale_while_revalidate`](crate::Policy::with_stale_while_revalidate): the client was served the
///   entry;
/// - audit hits ([`Policy::with_audit`](crate::Policy::with_audit)).
///
/// All of this may take 0.9 of the invocation's remaining time, less 100 ms. Lambda bills the time, and sends the
/// environment no other event meanwhile. A request that leaves no work takes no longer than without the layer.
///
/// Without this layer the cache spawns the work. That is fine on a server, which nothing freezes. On Lambda, requests
/// then refresh entries themselves and wait for it, and the cache logs a warning once.
///
#[cfg_attr(feature = "lambda", doc = "```no_run")]
#[cfg_attr(not(feature = "lambda"), doc = "```ignore")]
/// use lambda_runtime::{LambdaInvocation, Runtime};
/// use response_boost::{AfterReplyLayer, Deadline};
/// # use lambda_runtime::{Error, LambdaEvent, service_fn};
/// # async fn answer(_: LambdaEvent<String>) -> Result<String, Error> { Ok(String::new()) }
///
/// # async fn run() -> Result<(), Error> {
/// let after_reply = AfterReplyLayer::new(|invocation: &LambdaInvocation| {
///     Deadline::at(invocation.context.deadline())
/// });
/// Runtime::new(service_fn(answer)).layer(after_reply).run().await
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct AfterReplyLayer<F> {
    ends_at: F,
}

impl<F> AfterReplyLayer<F> {
    /// `ends_at` returns the time at which Lambda ends the invocation.
    #[must_use]
    pub fn new<R>(ends_at: F) -> Self
    where
        F: Fn(&R) -> Deadline,
    {
        Self { ends_at }
    }
}

impl<F> fmt::Debug for AfterReplyLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AfterReplyLayer").finish_non_exhaustive()
    }
}

impl<S, F: Clone> Layer<S> for AfterReplyLayer<F> {
    type Service = AfterReply<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        AfterReply { inner, ends_at: self.ends_at.clone() }
    }
}

/// The service of [`AfterReplyLayer`]: its call returns when the inner service has replied and the work is done.
#[derive(Clone, Copy)]
pub struct AfterReply<S, F> {
    inner: S,
    ends_at: F,
}

impl<S: fmt::Debug, F> fmt::Debug for AfterReply<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AfterReply").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, F, R> Service<R> for AfterReply<S, F>
where
    S: Service<R>,
    S::Future: Send + 'static,
    S::Response: Send,
    S::Error: Send,
    F: Fn(&R) -> Deadline,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, invocation: R) -> Self::Future {
        let ends_at = (self.ends_at)(&invocation);
        let left = Left { ends_at: Some(ends_at), ..Left::default() };
        let reply = LEFT.sync_scope(left.clone(), || self.inner.call(invocation));
        Box::pin(async move {
            let reply = LEFT.scope(left.clone(), reply).await;
            if !left.is_empty() {
                timed(|report| &mut report.after_reply, left.finish(ends_at)).await;
            }
            reply
        })
    }
}

/// Runs `work` after the reply. Without the layer it spawns `work`, or drops it if no runtime is running.
pub(crate) fn defer(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(left) = LEFT.try_with(Clone::clone) {
        left.works().push(Box::pin(work));
    } else if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(work);
    }
}

/// Whether a load deferred now would run. On a Lambda that freezes between requests, only the layer ensures that.
pub(crate) fn can_load() -> bool {
    // An environment that serves several requests concurrently is not frozen after each of them.
    static IS_FROZEN: LazyLock<bool> = LazyLock::new(|| {
        let serves_one =
            std::env::var("AWS_LAMBDA_MAX_CONCURRENCY").map_or(true, |requests| requests == "1");
        std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_some() && serves_one
    });
    static WARNED: Once = Once::new();
    if has_layer() {
        return true;
    }
    if *IS_FROZEN {
        WARNED.call_once(|| {
            warn!("no AfterReplyLayer around the Lambda runtime: requests refresh entries themselves, and wait for it");
        });
        return false;
    }
    Handle::try_current().is_ok()
}

/// How much of the invocation's remaining time the work after the reply may use.
pub(crate) fn limit(left: Duration) -> Duration {
    left.mul_f64(SHARE).saturating_sub(MARGIN)
}

/// When the invocation of the current request ends.
pub(crate) fn deadline() -> Option<Deadline> {
    LEFT.try_with(|left| left.ends_at).ok().flatten()
}

/// Whether work deferred now runs after the reply.
pub(crate) fn has_layer() -> bool {
    LEFT.try_with(|_| ()).is_ok()
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The work that one invocation leaves behind.
#[derive(Clone, Default)]
struct Left {
    works: Arc<Mutex<Vec<Work>>>,
    /// When Lambda ends the invocation.
    ends_at: Option<Deadline>,
}

impl Left {
    fn works(&self) -> MutexGuard<'_, Vec<Work>> {
        // Nothing panics while it holds the lock.
        self.works.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_empty(&self) -> bool {
        self.works().is_empty()
    }

    async fn finish(&self, ends_at: Deadline) {
        let Some(left) = ends_at.left(Clock::default().now_ms()) else {
            return self.run().await;
        };
        if tokio::time::timeout(limit(left), self.run()).await.is_err() {
            warn!("work after the reply cut off: the invocation is about to end");
        }
    }

    /// Runs all of the work, each piece in a task of its own, and what that defers in turn.
    async fn run(&self) {
        let mut running = JoinSet::new();
        loop {
            for work in std::mem::take(&mut *self.works()) {
                running.spawn(LEFT.scope(self.clone(), work));
            }
            // The program's panic hook logs a panic, which must not stop the other work.
            if running.join_next().await.is_none() && self.is_empty() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;
    use tokio::time::Instant;
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn invoke(left: Duration, handler: impl Future<Output = ()> + Send + 'static) {
        let handler = Mutex::new(Some(handler));
        let service = service_fn(move |()| {
            let handler = handler.lock().unwrap().take().unwrap();
            async {
                handler.await;
                Ok::<_, Infallible>(())
            }
        });
        let layer = AfterReplyLayer::new(move |(): &()| Deadline::after(left));
        layer.layer(service).oneshot(()).await.unwrap();
    }

    #[tokio::test]
    async fn deferred_work_runs_after_the_reply_and_before_the_call_ends() {
        let (replied, reply) = oneshot::channel();
        let done = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&done);
        invoke(60 * SECOND, async move {
            defer(async move {
                reply.await.unwrap();
                // Deferred work may defer more, and a panic harms no other work.
                defer(async { panic!("one of them") });
                defer(async move { counted.store(1, Ordering::SeqCst) });
            });
            replied.send(()).unwrap();
        })
        .await;
        assert_eq!(done.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_request_that_is_dropped_can_defer_work_too() {
        struct Lease(Option<oneshot::Sender<()>>);
        impl Drop for Lease {
            fn drop(&mut self) {
                let released = self.0.take();
                defer(async move { released.unwrap().send(()).unwrap() });
            }
        }
        let (sender, mut released) = oneshot::channel();
        invoke(60 * SECOND, async move {
            let held = async {
                let _lease = Lease(Some(sender));
                std::future::pending::<()>().await;
            };
            let _ = tokio::time::timeout(SECOND / 100, held).await;
        })
        .await;
        assert_eq!(released.try_recv(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_would_outlast_the_invocation_is_cut_off() {
        let started = Instant::now();
        invoke(10 * SECOND, async { defer(std::future::pending()) }).await;
        let time = started.elapsed();
        // The invocation ends by the wall clock, which keeps running although the time of the test is paused.
        assert!(time > 8 * SECOND && time + MARGIN <= 9 * SECOND, "{time:?}");
    }

    #[tokio::test]
    async fn without_the_layer_work_is_spawned() {
        let (sender, done) = oneshot::channel();
        defer(async move { sender.send(()).unwrap() });
        done.await.unwrap();
    }

    #[test]
    fn without_a_runtime_work_is_dropped() {
        let (sender, mut done) = oneshot::channel();
        defer(async move { sender.send(()).unwrap() });
        assert_eq!(done.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
