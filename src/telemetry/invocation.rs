//! The record of one invocation: opened when its event arrives, written when its response is sent.

use std::fmt;
use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context as Task, Poll};
use std::time::{Duration, Instant};

use http::StatusCode;
use lambda_http::Context;
use lambda_runtime::LambdaInvocation;
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, error_span};

use super::metrics::{Lines, Outcome, RequestLine, in_milliseconds};
use super::{Label, LogFormat, LogSettings};
use response_boost::{CacheStatus, Recorder, Report};

tokio::task_local! {
    static CURRENT: Arc<Invocation>;
}

/// What all lines of an invocation share, and what its own line collects.
#[derive(Debug)]
struct Invocation {
    request_id: String,
    trace_id: Option<String>,
    started: Instant,
    route: OnceLock<&'static str>,
    /// The status, and how long the response took.
    answer: OnceLock<(StatusCode, Duration)>,
    is_request: AtomicBool,
}

/// Writes one line for each request, however it ends: a layer for [`Runtime::layer`](lambda_runtime::Runtime::layer)
/// around a [`Gateway`](lambda_gateway::Gateway).
///
/// The line is written after the response was sent, so that no client waits for it, and before the runtime asks for the
/// next event, because Lambda lets the process run until then. As JSON it is written whatever the log filter says,
/// because it carries the metrics. As text it is a log line like others.
///
/// ```no_run
/// use http::Response;
/// use lambda_http::{Body, Error, Request, lambda_runtime::Runtime, tower::service_fn};
/// use users_function::config::Config;
/// use lambda_gateway::Gateway;
/// use users_function::telemetry::{self, Telemetry};
///
/// # async fn example() -> Result<(), Error> {
/// let log = Config::from_lookup(|name| std::env::var_os(name))?.log;
/// telemetry::init(&log);
/// let hello = service_fn(async |_: Request| Ok::<_, Error>(Response::new(Body::from("hello"))));
/// let gateway = Gateway::new(hello).on_reply(telemetry::answered);
/// Runtime::new(gateway).layer(Telemetry::new(&log)).run().await
/// # }
/// ```
#[derive(Clone)]
pub struct Telemetry {
    shared: Arc<Shared>,
}

struct Shared {
    format: LogFormat,
    service: Label,
    is_cold: AtomicBool,
    lines: Mutex<(Lines, Box<dyn Write + Send>)>,
}

/// The service that [`Telemetry`] wraps around yours.
#[derive(Clone, Debug)]
pub struct Recorded<S> {
    inner: S,
    telemetry: Telemetry,
}

impl Telemetry {
    /// Writes lines in the configured format to standard output.
    #[must_use]
    pub fn new(settings: &LogSettings) -> Self {
        Self::writing_to(std::io::stdout(), settings)
    }

    /// The same with another output. (Text goes wherever the log goes.)
    pub fn writing_to(output: impl Write + Send + 'static, settings: &LogSettings) -> Self {
        let lines = Lines::new(&settings.metrics_namespace);
        let shared = Shared {
            format: settings.format,
            service: settings.service.clone(),
            is_cold: AtomicBool::new(true),
            lines: Mutex::new((lines, Box::new(output))),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("format", &self.shared.format).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for Telemetry {
    type Service = Recorded<S>;

    fn layer(&self, inner: S) -> Recorded<S> {
        Recorded { inner, telemetry: self.clone() }
    }
}

impl<S> Service<LambdaInvocation> for Recorded<S>
where
    S: Service<LambdaInvocation>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, event: LambdaInvocation) -> Self::Future {
        let record = Record::open(&self.telemetry, &event.context);
        let invocation = Arc::clone(&record.invocation);
        // What the service does before it returns its future belongs to the invocation too.
        let given = record
            .span
            .in_scope(|| CURRENT.sync_scope(Arc::clone(&invocation), || self.inner.call(event)));
        let given = CURRENT.scope(invocation, record.recorder.watch(given));
        let given = given.instrument(record.span.clone());
        Box::pin(async move {
            let _record = record;
            given.await
        })
    }
}

/// Runs `work`, and adds the ids of this invocation to the lines logged by it. For a function that writes its own line.
pub async fn within<F: Future>(context: &Context, work: F) -> F::Output {
    let invocation = Invocation::new(context);
    let span = invocation.span();
    CURRENT.scope(Arc::new(invocation), work).instrument(span).await
}

/// Notes the route of the current request: the pattern, never the path, which may contain anything.
pub fn seen_at(route: &'static str) {
    let _ = CURRENT.try_with(|invocation| invocation.route.set(route));
}

/// Notes that the current request has been answered.
pub fn answered(status: StatusCode) {
    let _ = CURRENT.try_with(|it| it.answer.set((status, it.started.elapsed())));
}

/// Notes that the current invocation is not a request, so that it gets no line and counts in no metric.
pub fn not_a_request() {
    let _ = CURRENT.try_with(|invocation| invocation.is_request.store(false, Ordering::Relaxed));
}

/// The request id and the trace id of the current invocation, if one is running.
pub(super) fn current_ids() -> (Option<String>, Option<String>) {
    let ids = CURRENT.try_with(|it| (Some(it.request_id.clone()), it.trace_id.clone()));
    ids.unwrap_or_default()
}

impl Invocation {
    fn new(context: &Context) -> Self {
        let trace_id = context.xray_trace_id.as_deref().and_then(root).map(ToOwned::to_owned);
        Self {
            request_id: context.request_id.clone(),
            trace_id,
            started: Instant::now(),
            route: OnceLock::new(),
            answer: OnceLock::new(),
            is_request: AtomicBool::new(true),
        }
    }

    /// The span that adds the ids to text lines.
    fn span(&self) -> Span {
        error_span!("invocation", request_id = self.request_id, trace_id = self.trace_id)
    }
}

/// The trace id alone, as X-Ray shows it, from `Root=1-…;Parent=…;Sampled=1`.
fn root(header: &str) -> Option<&str> {
    header.split(';').find_map(|part| part.strip_prefix("Root="))
}

/// Writes its line when it is dropped, so also if the request panics or is cancelled.
struct Record {
    telemetry: Telemetry,
    invocation: Arc<Invocation>,
    recorder: Recorder,
    span: Span,
    is_cold_start: bool,
}

impl Record {
    fn open(telemetry: &Telemetry, context: &Context) -> Self {
        let invocation = Invocation::new(context);
        let span = match telemetry.shared.format {
            LogFormat::Text => invocation.span(),
            // JSON lines get their ids without a span, which saves its cost.
            LogFormat::Json => Span::none(),
        };
        Self {
            telemetry: telemetry.clone(),
            invocation: Arc::new(invocation),
            recorder: Recorder::default(),
            span,
            is_cold_start: telemetry.shared.is_cold.swap(false, Ordering::Relaxed),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let report = self.recorder.report();
        let Invocation { request_id, trace_id, started, route, answer, is_request } =
            &*self.invocation;
        if !is_request.load(Ordering::Relaxed) {
            return;
        }
        let answer = answer.get().copied();
        let status = answer.map(|(status, _)| status.as_u16());
        let level = match status {
            None | Some(500..) => "ERROR",
            Some(_) if report.faults > 0 => "WARN",
            Some(_) => "INFO",
        };
        let Shared { format, service, lines, .. } = &*self.telemetry.shared;
        let line = RequestLine {
            level,
            service,
            request_id,
            trace_id: trace_id.as_deref(),
            is_cold_start: self.is_cold_start,
            route: route.get().copied(),
            status,
            report,
            total: answer.map_or_else(|| started.elapsed(), |(_, after)| after),
        };
        match format {
            LogFormat::Text => self.span.in_scope(|| log(&line)),
            LogFormat::Json => {
                // A panic while the lock was held leaves no partial line.
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                let (lines, output) = &mut *lines;
                // If nobody reads the output, nobody can be told.
                let _ = output.write_all(lines.write(&line));
            }
        }
    }
}

/// Writes the line as text, with the same names.
fn log(line: &RequestLine<'_>) {
    let Report { status, connect, command, wait, load, saved, faults, fault, .. } = &line.report;
    let in_milliseconds = |time: &Option<_>| time.map(in_milliseconds);
    macro_rules! log {
        ($level:ident) => {
            tracing::$level!(
                status = line.status,
                route = line.route,
                outcome = Outcome::of(&line.report).as_str(),
                cache_status = status.map(CacheStatus::as_str),
                fault = fault.map(|fault| fault.to_string()),
                CacheFaults = Some(faults).filter(|&&faults| faults > 0),
                ColdStarts = Some(1).filter(|_| line.is_cold_start),
                redis_connect_ms = in_milliseconds(connect),
                lease_wait_ms = in_milliseconds(wait),
                saved_ms = in_milliseconds(saved),
                RedisLatency = in_milliseconds(command),
                StoreLatency = in_milliseconds(load),
                Latency = in_milliseconds(&Some(line.total)),
                "request"
            )
        };
    }
    match line.level {
        "ERROR" => log!(error),
        "WARN" => log!(warn),
        _ => log!(info),
    }
}
