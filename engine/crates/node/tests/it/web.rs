//! As much of HTTP as the tests need: a client, and a server that answers as it is told.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::support::PATIENCE;

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// One request on a connection of its own.
pub fn send(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    try_send(method, url, headers, body).unwrap()
}

pub fn try_send(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<Answer> {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let path = if path.is_empty() { "/" } else { path };
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    // A server that refuses a body may answer before it has read it.
    let _ = stream.write_all(body);
    let mut reader = BufReader::new(stream);
    let (first, headers) = read_head(&mut reader)?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    let body = read_body(&mut reader, &headers)?;
    Ok(Answer { status, headers, body })
}

type Head = (String, BTreeMap<String, String>);

fn read_head(reader: &mut impl BufRead) -> std::io::Result<Option<Head>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { return Ok(Some((first, headers))) };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
}

fn read_body(reader: &mut impl Read, headers: &BTreeMap<String, String>) -> std::io::Result<Vec<u8>> {
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(body)
}

/// A request that the test's server got.
#[derive(Debug, Clone)]
pub struct Seen {
    pub headers: BTreeMap<String, String>,
    pub rows: Vec<Value>,
}

impl Seen {
    pub fn key(&self) -> &str {
        &self.headers["idempotency-key"]
    }
}

/// A receiver of webhooks.
pub struct Receiver {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Receiver {
    /// `decide` gets the request's number, from 0, and gives the status; 0 drops the connection without an answer.
    pub fn start(decide: impl Fn(usize) -> u16 + Send + Sync + 'static) -> Receiver {
        Receiver::listen(TcpListener::bind("127.0.0.1:0").unwrap(), decide)
    }

    pub fn listen(listener: TcpListener, decide: impl Fn(usize) -> u16 + Send + Sync + 'static) -> Receiver {
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (all, decide) = (seen.clone(), Arc::new(decide));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (all, decide) = (all.clone(), decide.clone());
                std::thread::spawn(move || serve(stream, &all, &*decide));
            }
        });
        Receiver { url, seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Rows of each idempotency key once, as a receiver keeps them that knows the keys. All tries of a key must be the same.
    pub fn rows_once(&self) -> Vec<Value> {
        let mut batches: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for seen in self.seen() {
            let first = batches.entry(seen.key().to_owned()).or_insert_with(|| seen.rows.clone());
            assert_eq!(*first, seen.rows, "a retry is the same to the byte");
        }
        batches.into_values().flatten().collect()
    }
}

fn serve(stream: TcpStream, all: &Mutex<Vec<Seen>>, decide: &(dyn Fn(usize) -> u16 + Send + Sync)) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    while let Ok(Some((_, headers))) = read_head(&mut reader) {
        let Ok(body) = read_body(&mut reader, &headers) else { return };
        let rows = serde_json::from_slice(&body).unwrap();
        let number = {
            let mut all = all.lock().unwrap();
            all.push(Seen { headers, rows });
            all.len() - 1
        };
        let status = decide(number);
        if status == 0 || writer.write_all(format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// An address where nobody listens until the test does: one of the loopback's that no other test and no client gets.
pub fn unused_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, high.max(1), low, NEXT.fetch_add(1, Ordering::Relaxed));
    TcpListener::bind((own, 0)).unwrap().local_addr().unwrap()
}
