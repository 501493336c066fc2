use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use streamjob_connectors::backoff::Backoff;
use streamjob_connectors::deliveries::{Delivery, DeliveryReport, MAX_PARALLEL_SHARDS, Refusal, run_deliveries};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::webhook_server::{Answer, Server, answer, batch, webhook};

struct Running {
    batches: mpsc::Sender<Delivery>,
    reports: Arc<Mutex<Vec<DeliveryReport>>>,
    shutdown: CancellationToken,
    task: JoinHandle<usize>,
}

fn start(server: &Server) -> Running {
    let (batches, receiver) = mpsc::channel(4);
    let reports: Arc<Mutex<Vec<DeliveryReport>>> = Arc::default();
    let shutdown = CancellationToken::new();
    let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(5));
    let sent = reports.clone();
    let task = tokio::spawn(run_deliveries(
        Arc::new(webhook(&server.url)),
        backoff,
        7,
        receiver,
        move |report| sent.lock().unwrap().push(report),
        shutdown.clone(),
    ));
    Running { batches, reports, shutdown, task }
}

fn delivery(shard: u16, seq: u64) -> Delivery {
    Delivery { shard, sink: "alerts".into(), last_seq: seq, confirmed_below: 0, batch: batch(&format!("{shard}/{seq}")) }
}

impl Running {
    async fn finish(self) -> Vec<DeliveryReport> {
        drop(self.batches);
        assert_eq!(self.task.await.unwrap(), 0);
        Arc::try_unwrap(self.reports).unwrap().into_inner().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_shard_is_in_order_and_retries_repeat_the_same_bytes() {
    const SHARDS: u16 = 40;
    const BATCHES: u64 = 10;
    // Every third request fails, in several ways.
    let server = Server::start(|number, _| answer(if number % 3 == 0 { [503, 429, 500][number / 3 % 3] } else { 200 })).await;
    let running = start(&server);
    for seq in 0..BATCHES {
        for shard in 0..SHARDS {
            running.batches.send(delivery(shard, seq)).await.unwrap();
        }
    }
    let reports = running.finish().await;
    assert_eq!(reports.len(), usize::from(SHARDS) * BATCHES as usize);
    for shard in 0..SHARDS {
        let reported: Vec<u64> = reports.iter().filter(|report| report.shard == shard).map(|report| report.last_seq).collect();
        assert_eq!(reported, (0..BATCHES).collect::<Vec<_>>());
        let prefix = format!("{shard}/");
        let mut keys: Vec<String> = server.seen().iter().map(|seen| seen.header("idempotency-key").to_owned()).collect();
        keys.retain(|key| key.starts_with(&prefix));
        assert!(keys.is_sorted(), "{keys:?}");
    }
    assert!(reports.iter().all(|report| report.result.is_ok() && &*report.sink == "alerts"));
    let attempts: u32 = reports.iter().map(|report| report.attempts).sum();
    let seen = server.seen();
    assert_eq!(attempts as usize, seen.len());
    assert!(seen.iter().all(|seen| seen.body == format!("[{{\"batch\":\"{}\"}}]", seen.header("idempotency-key"))));
}

#[tokio::test]
async fn a_refused_batch_is_reported_and_the_next_one_goes_on() {
    let server = Server::start(|number, _| Answer { body: "bad row", ..answer(if number == 0 { 400 } else { 200 }) }).await;
    let running = start(&server);
    for seq in 0..2 {
        running.batches.send(delivery(0, seq)).await.unwrap();
    }
    let reports = running.finish().await;
    let refusal = reports[0].result.clone().unwrap_err();
    assert!(matches!(&refusal, Refusal::Batch { status: 400, reason } if reason.contains("bad row")), "{refusal:?}");
    assert_eq!(&reports[0].batch.body[..], b"[{\"batch\":\"0/0\"}]");
    assert!(reports[1].result.is_ok());
}

#[tokio::test]
async fn retry_after_is_obeyed() {
    let limited = Answer { header: Some(("retry-after", "1")), ..answer(429) };
    let server = Server::start(move |number, _| if number == 0 { limited.clone() } else { answer(200) }).await;
    let start_time = Instant::now();
    let running = start(&server);
    running.batches.send(delivery(0, 0)).await.unwrap();
    assert_eq!(running.finish().await[0].attempts, 2);
    assert!(start_time.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn one_stuck_shard_does_not_stop_the_others() {
    let server = Server::start(|_, seen| answer(if seen.header("idempotency-key").starts_with("0/") { 503 } else { 200 })).await;
    let running = start(&server);
    running.batches.send(delivery(0, 0)).await.unwrap();
    for seq in 0..50 {
        running.batches.send(delivery(1, seq)).await.unwrap();
    }
    while running.reports.lock().unwrap().len() < 50 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    running.shutdown.cancel();
    assert_eq!(running.task.await.unwrap(), 1);
}

#[tokio::test]
async fn attempts_in_parallel_are_bounded_and_shutdown_does_not_wait_for_them() {
    let server = Server::start(|_, _| Answer { after: Duration::from_secs(60), ..answer(200) }).await;
    let running = start(&server);
    let shards = MAX_PARALLEL_SHARDS as u16 + 10;
    for shard in 0..shards {
        running.batches.send(delivery(shard, 0)).await.unwrap();
    }
    while server.seen().len() < MAX_PARALLEL_SHARDS {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // One too many would have come by then.
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(server.seen().len(), MAX_PARALLEL_SHARDS);
    let start_time = Instant::now();
    running.shutdown.cancel();
    assert_eq!(running.task.await.unwrap(), usize::from(shards));
    assert!(start_time.elapsed() < Duration::from_secs(20));
}
