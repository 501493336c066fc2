//! Logs and traces of one process.
//!
//! A trace is one batch on its way: `ingest` (a request, or a chunk of a file) with the children `parse` and `route` on the
//! thread that brings it, `udf`, `window` and `output` on each worker that has rows of it. Few batches are sampled; all
//! others carry `None` and pay for nothing.
//!
//! A batch that a start reads again from a journal is traced as any other, as `replay` in place of `ingest`: who sent it is no
//! longer known. It is linked to `recovery`, the span of the journal as a whole.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Link, Span, SpanBuilder, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use streamjob_core::processor::{Observer, Stage};
use streamjob_core::{Error, Result};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Level of the engine's log lines: `error`, `warn`, `info` or `debug`.
pub const LOG_LEVEL: &str = "STREAMJOB_LOG";
/// How they are written: `json` or `text`.
pub const LOG_FORMAT: &str = "STREAMJOB_LOG_FORMAT";
/// Where spans go, by OTLP over gRPC; without it nothing is traced.
pub const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The part of all batches that is traced, above 0 and at most 1.
pub const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";

/// One in so many batches is traced, unless [`SAMPLER_ARG`] says otherwise.
pub const SAMPLE_EVERY: u64 = 1000;
/// Of the sampled batches that a worker takes up together, so many get spans.
const MAX_TRACES_A_BATCH: usize = 8;
/// Spans that wait at the end of a run get this long to leave.
const FLUSH: Duration = Duration::from_secs(3);

/// Writes log lines to stderr, once a process. A host that has set up `tracing` itself keeps what it has.
pub fn init_logs() -> Result<()> {
    let level = match std::env::var(LOG_LEVEL).as_deref() {
        Err(_) | Ok("" | "info") => LevelFilter::INFO,
        Ok("error") => LevelFilter::ERROR,
        Ok("warn") => LevelFilter::WARN,
        Ok("debug") => LevelFilter::DEBUG,
        Ok(other) => return Err(Error::user(format!("{LOG_LEVEL}: expected error, warn, info or debug (got {other})"))),
    };
    // Libraries have a say only where something is wrong.
    let targets = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("streamjob", level);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let _ = match std::env::var(LOG_FORMAT).as_deref() {
        Err(_) | Ok("" | "json") => {
            tracing_subscriber::registry().with(lines.json().flatten_event(true)).with(targets).try_init()
        }
        Ok("text") => tracing_subscriber::registry().with(lines).with(targets).try_init(),
        Ok(other) => return Err(Error::user(format!("{LOG_FORMAT}: expected json or text (got {other})"))),
    };
    Ok(())
}

/// Decides which batches are traced, and sends their spans.
pub struct Traces {
    exporting: Option<Exporting>,
}

struct Exporting {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    every: u64,
    seen: AtomicU64,
}

impl Traces {
    /// As the environment says. Called within the runtime that exports.
    pub fn from_env(job: &str) -> Result<Traces> {
        let set = std::env::var(ENDPOINT).is_ok_and(|endpoint| !endpoint.is_empty());
        if !set {
            return Ok(Traces { exporting: None });
        }
        let every = match std::env::var(SAMPLER_ARG) {
            Err(_) => SAMPLE_EVERY,
            Ok(text) => every(&text)?,
        };
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().build();
        let exporter = exporter.map_err(|error| Error::user(format!("{ENDPOINT}: spans can't be sent there: {error}")))?;
        let attributes = [KeyValue::new("service.name", "streamjob"), KeyValue::new("streamjob.job", job.to_owned())];
        let resource = Resource::builder().with_attributes(attributes).build();
        // Which batches are traced is decided before there is a span.
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource)
            .with_batch_exporter(exporter)
            .build();
        let tracer = provider.tracer("streamjob");
        Ok(Traces { exporting: Some(Exporting { provider, tracer, every, seen: AtomicU64::new(0) }) })
    }

    /// Begins the trace of a batch, if it is to be traced. A sender that says whether it traces decides for its batch.
    pub fn begin(&self, traceparent: Option<&[u8]>) -> Option<Ingest> {
        let exporting = self.exporting.as_ref()?;
        let parent = match traceparent.and_then(parse_traceparent) {
            Some(parent) if parent.is_sampled() => Context::new().with_remote_span_context(parent),
            Some(_) => return None,
            None if exporting.is_next() => Context::new(),
            None => return None,
        };
        Some(exporting.root(SpanBuilder::from_name("ingest").with_kind(SpanKind::Server), &parent))
    }

    /// Begins the span of a journal that is read again; it ends when it is dropped. `None` without an exporter.
    pub fn begin_recovery(&self, journal: &str) -> Option<Recovery<'_>> {
        let exporting = self.exporting.as_ref()?;
        let attributes = [KeyValue::new("streamjob.split", journal.to_owned())];
        let span = SpanBuilder::from_name("recovery").with_kind(SpanKind::Internal).with_attributes(attributes);
        Some(Recovery { exporting, span: span.start_with_context(&exporting.tracer, &Context::new()) })
    }

    /// Sends what waits, and nothing more.
    pub fn finish(&self) {
        let Some(exporting) = &self.exporting else { return };
        if let Err(error) = exporting.provider.shutdown_with_timeout(FLUSH) {
            tracing::warn!("not all spans could be sent: {error}");
        }
    }
}

impl Exporting {
    /// Whether the next batch is one of those that are traced.
    fn is_next(&self) -> bool {
        self.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.every)
    }

    fn root(&self, span: SpanBuilder, parent: &Context) -> Ingest {
        let span = span.start_with_context(&self.tracer, parent);
        let parent = Context::new().with_remote_span_context(span.span_context().clone());
        Ingest { span, trace: Arc::new(Trace { tracer: self.tracer.clone(), parent }) }
    }
}

/// The span of a journal that is read again.
pub struct Recovery<'a> {
    exporting: &'a Exporting,
    span: opentelemetry_sdk::trace::Span,
}

impl Recovery<'_> {
    /// Begins the trace of one of its batches, if it is to be traced.
    pub fn begin(&self, first_offset: u64) -> Option<Ingest> {
        if !self.exporting.is_next() {
            return None;
        }
        let attributes = [KeyValue::new("streamjob.first_offset", first_offset as i64)];
        let link = Link::with_context(self.span.span_context().clone());
        let span = SpanBuilder::from_name("replay").with_kind(SpanKind::Consumer).with_attributes(attributes);
        Some(self.exporting.root(span.with_links(vec![link]), &Context::new()))
    }
}

fn every(text: &str) -> Result<u64> {
    match text.parse::<f64>() {
        Ok(ratio) if ratio > 0.0 && ratio <= 1.0 => Ok((1.0 / ratio).round() as u64),
        _ => Err(Error::user(format!("{SAMPLER_ARG}: expected a part above 0 and at most 1, such as 0.001 (got {text})"))),
    }
}

/// The root span of a batch, as long as its sender waits.
pub struct Ingest {
    span: opentelemetry_sdk::trace::Span,
    trace: Arc<Trace>,
}

impl Ingest {
    pub fn trace(&self) -> &Arc<Trace> {
        &self.trace
    }

    pub fn note(&mut self, name: &'static str, value: i64) {
        self.span.set_attribute(KeyValue::new(name, value));
    }
}

/// What a traced batch carries from thread to thread.
pub struct Trace {
    tracer: SdkTracer,
    /// Holds the root span's place.
    parent: Context,
}

impl Trace {
    /// Begins a span of the batch; it ends when it is dropped.
    pub fn span(&self, name: &'static str) -> opentelemetry_sdk::trace::Span {
        SpanBuilder::from_name(name).start_with_context(&self.tracer, &self.parent)
    }

    /// Adds a span that has ended now.
    pub fn ended_span(&self, name: &'static str, started: SystemTime) {
        let span = SpanBuilder::from_name(name).with_start_time(started);
        drop(span.start_with_context(&self.tracer, &self.parent));
    }

    /// The root span as a W3C header.
    pub fn traceparent(&self) -> String {
        write_traceparent(self.parent.span().span_context())
    }
}

thread_local! {
    static CURRENT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The span that runs on this thread, as a W3C `traceparent` header; `None` where the batch is not traced.
pub fn current_traceparent() -> Option<String> {
    CURRENT.with_borrow(Clone::clone)
}

/// Spans of one worker's batch: a span of each stage for each of its traces.
pub struct StageSpans {
    traces: Vec<Arc<Trace>>,
    /// Stages lie within each other. With what was current before.
    open: Vec<(Vec<opentelemetry_sdk::trace::Span>, Option<String>)>,
}

impl StageSpans {
    pub fn new(mut traces: Vec<Arc<Trace>>) -> StageSpans {
        traces.truncate(MAX_TRACES_A_BATCH);
        StageSpans { traces, open: Vec::new() }
    }
}

impl Observer for StageSpans {
    fn begin(&mut self, stage: Stage) {
        let spans: Vec<_> = self.traces.iter().map(|trace| trace.span(stage.as_str())).collect();
        let current = spans.first().map(|span| write_traceparent(span.span_context()));
        let before = CURRENT.replace(current);
        self.open.push((spans, before));
    }

    fn end(&mut self, _stage: Stage) {
        if let Some((spans, before)) = self.open.pop() {
            drop(spans);
            CURRENT.set(before);
        }
    }
}

impl Drop for StageSpans {
    fn drop(&mut self) {
        if !self.open.is_empty() {
            CURRENT.set(None);
        }
    }
}

fn write_traceparent(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8())
}

/// `00-TRACE-SPAN-FLAGS`; later versions may say more behind it.
fn parse_traceparent(header: &[u8]) -> Option<SpanContext> {
    let mut parts = std::str::from_utf8(header).ok()?.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length: usize| text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex(version, 2) || version == "ff" || !is_hex(trace, 32) || !is_hex(span, 16) || !is_hex(flags, 2) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    Some(SpanContext::new(trace, span, flags, true, TraceState::default())).filter(SpanContext::is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_as_it_is_written() {
        let context = parse_traceparent(HEADER.as_bytes()).expect("it is one");
        assert!(context.is_sampled());
        assert_eq!(write_traceparent(&context), HEADER);
        for wrong in
            ["", "00", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0-0-01", &HEADER.replace("0af", "zzz")]
        {
            assert!(parse_traceparent(wrong.as_bytes()).is_none(), "{wrong}");
        }
        let nothing = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        assert!(parse_traceparent(nothing.as_bytes()).is_none());
    }

    #[test]
    fn a_ratio_is_one_in_so_many() {
        assert_eq!(every("1").ok(), Some(1));
        assert_eq!(every("0.001").ok(), Some(1000));
        assert!(every("0").is_err() && every("x").is_err() && every("2").is_err());
    }
}
