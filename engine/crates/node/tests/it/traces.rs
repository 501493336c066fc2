//! Traces as a collector gets them, from a run in a process of its own: what is traced is said by the environment.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_array::{ArrayRef, Float64Array, cast::AsArray, types::Float64Type};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::json;
use streamjob_core::Result;
use streamjob_core::udf::{UdfFailure, UdfHost};
use streamjob_node::UdfFactory;
use streamjob_node::telemetry::{ENDPOINT, SAMPLER_ARG, current_traceparent};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

use crate::support::{Job, line, lines, wait_until};
use crate::web::Receiver;

const HOOK: &str = "STREAMJOB_TEST_HOOK";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
const STAGES: [&str; 5] = ["parse", "route", "udf", "window", "output"];

#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> std::result::Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.spans.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_batch_is_one_trace_from_its_sender_to_the_webhook() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let collector = Collector::default();
    let service = tonic::transport::Server::builder().add_service(TraceServiceServer::new(collector.clone()));
    runtime.spawn(async move { service.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap() });
    let receiver = Receiver::start(|_| 200);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "traces::a_traced_run", "--ignored", "--nocapture"])
        .env(ENDPOINT, format!("http://{address}"))
        .env(SAMPLER_ARG, "1")
        .env(HOOK, &receiver.url)
        .output()
        .unwrap();
    assert!(child.status.success(), "{}\n{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    wait_until("the spans are there", || !collector.spans.lock().unwrap().is_empty());
    let spans = collector.spans.lock().unwrap().clone();
    check_trace(&spans);
    check_webhooks(&spans, &receiver);
    check_udf(&spans, &String::from_utf8_lossy(&child.stdout));
    check_latencies(&spans);
}

/// The request that came with a trace continues it; one without begins its own.
fn check_trace(spans: &[Span]) {
    let ours: Vec<&Span> = spans.iter().filter(|span| hex(&span.trace_id) == TRACE).collect();
    let roots: Vec<&&Span> = ours.iter().filter(|span| span.name == "ingest").collect();
    assert_eq!(roots.len(), 1);
    assert_eq!(hex(&roots[0].parent_span_id), CALLER);
    for stage in STAGES {
        let of_stage: Vec<&&Span> = ours.iter().filter(|span| span.name == stage).collect();
        assert!(!of_stage.is_empty(), "no span {stage} in {:?}", ours.iter().map(|span| &span.name).collect::<Vec<_>>());
        for span in of_stage {
            assert_eq!(span.parent_span_id, roots[0].span_id, "{stage}");
            assert!(span.start_time_unix_nano >= roots[0].start_time_unix_nano, "{stage}");
        }
    }
    let others: BTreeSet<_> = spans.iter().filter(|span| span.name == "ingest").map(|span| span.trace_id.clone()).collect();
    assert_eq!(others.len(), 2);
    assert!(spans.iter().any(|span| span.name == "ingest" && span.parent_span_id.is_empty()));
}

fn check_webhooks(spans: &[Span], receiver: &Receiver) {
    let seen = receiver.seen();
    let headers: Vec<&String> = seen.iter().filter_map(|seen| seen.headers.get("traceparent")).collect();
    let ours: Vec<&&String> = headers.iter().filter(|header| header.contains(TRACE)).collect();
    assert!(!ours.is_empty(), "{headers:?}");
    let of_names = |names: [&str; 2]| -> BTreeSet<String> {
        spans.iter().filter(|span| names.contains(&span.name.as_str())).map(|span| hex(&span.span_id)).collect()
    };
    let known = of_names(["output", "ingest"]);
    assert!(headers.iter().all(|header| known.contains(header.split('-').nth(2).unwrap())), "{headers:?}");
}

fn check_udf(spans: &[Span], output: &str) {
    let calls: Vec<&str> = output.lines().filter_map(|line| line.split("UDF ").nth(1)).collect();
    assert!(!calls.is_empty(), "{output}");
    let udfs: BTreeSet<String> = spans.iter().filter(|span| span.name == "udf").map(|span| hex(&span.span_id)).collect();
    assert!(calls.iter().all(|call| udfs.contains(call.trim().split('-').nth(2).unwrap())), "{calls:?}");
}

fn check_latencies(spans: &[Span]) {
    let mut durations: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for span in spans {
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
        durations.entry(&span.name).or_default().push(span.end_time_unix_nano - span.start_time_unix_nano);
    }
    for (name, durations) in &mut durations {
        durations.sort_unstable();
        let p99 = Duration::from_nanos(durations[(durations.len() * 99).div_ceil(100) - 1]);
        println!("{name}: {} spans, p99 {p99:?}", durations.len());
        assert!(p99 < Duration::from_secs(30), "{name}: {p99:?}");
    }
    assert_eq!(durations.len(), 1 + STAGES.len(), "{:?}", durations.keys());
}

struct Doubling;

impl UdfFactory for Doubling {
    fn host(&self, _worker: usize) -> Result<Box<dyn UdfHost>> {
        Ok(Box::new(Doubling))
    }
}

impl UdfHost for Doubling {
    fn call(&mut self, _udf: usize, inputs: &[ArrayRef], _rows: usize) -> std::result::Result<Vec<ArrayRef>, UdfFailure> {
        println!("UDF {}", current_traceparent().expect("every batch is traced"));
        let values = inputs[0].as_primitive::<Float64Type>();
        Ok(vec![Arc::new(Float64Array::from_iter_values(values.values().iter().map(|value| value * 2.0)))])
    }
}

#[test]
#[ignore = "the process that the test of traces starts"]
fn a_traced_run() {
    let Ok(hook) = std::env::var(HOOK) else { return };
    let mut job = Job::new().http_source().webhook("events", "at-least-once", &hook).webhook("per_10s", "exactly-once", &hook);
    job.json["sinks"][1]["name"] = "windows".into();
    job.json["udfs"] = json!([{
        "name": "double", "source": "", "filename": "", "function": "double", "on": "event", "window": null,
        "inputs": ["temperature"], "outputs": [{"name": "doubled", "type": "float64"}],
    }]);
    let running = job.with_udfs(Arc::new(Doubling));
    running.post_lines(&lines(500, 10));
    // Else both requests may be one batch, whose webhooks carry the trace of the first.
    wait_until("the first is processed", || running.metrics()["events_processed_total{outcome=\"applied\"}"] == 500.0);
    let header = format!("00-{TRACE}-{CALLER}-01");
    let body: String = (0..10).map(|key| line(&format!("device-{key}"), 100_000, 1)).collect();
    let answer = running.post("application/x-ndjson", &[("traceparent", &header)], body.as_bytes());
    assert_eq!(answer.status, 202);
    // A sender that does not trace decides as well.
    let header = format!("00-{}-{CALLER}-00", "1".repeat(32));
    wait_until("all is processed", || running.metrics()["events_processed_total{outcome=\"applied\"}"] == 510.0);
    let _ = header;
    running.finish().unwrap();
}
