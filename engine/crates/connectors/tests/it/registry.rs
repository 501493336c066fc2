use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use streamjob_connectors::registry::{Found, MAX_ANSWER_BYTES, MISSING_TRIES, Registry};
use streamjob_core::config::{RegistryAuth, RegistryConfig, SecretRef};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

type Shared<T> = Arc<Mutex<Vec<T>>>;

#[derive(Clone, Default)]
struct Answers {
    /// Status and body of the next ones.
    next: Shared<(u16, String)>,
    /// Number and authorization of the requests that came.
    came: Shared<(u32, Option<String>)>,
}

async fn answer(State(answers): State<Answers>, Path(id): Path<u32>, headers: HeaderMap) -> (StatusCode, String) {
    let authorization = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    answers.came.lock().unwrap().push((id, authorization));
    let (status, body) = answers.next.lock().unwrap().remove(0);
    (StatusCode::from_u16(status).unwrap(), body)
}

/// A server and a client of it.
async fn start(next: &[(u16, &str)], auth: Option<RegistryAuth>) -> (Answers, Registry) {
    let answers = Answers::default();
    *answers.next.lock().unwrap() = next.iter().map(|(status, body)| (*status, (*body).to_owned())).collect();
    let router = Router::new().route("/base/schemas/ids/{id}", get(answer)).with_state(answers.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/base/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let config = RegistryConfig { url, auth, timeout_us: 5_000_000 };
    (answers, Registry::new(&config).unwrap())
}

fn schema(text: &str) -> Found {
    Found::Schema(text.into())
}

#[tokio::test]
async fn a_schema_is_asked_for_once() {
    let (answers, registry) = start(&[(200, r#"{"schema":"\"int\"","schemaType":"AVRO"}"#)], None).await;
    assert_eq!(registry.known(7), None);
    for _ in 0..3 {
        assert_eq!(registry.schema(7, || 0.5).await, schema("\"int\""));
    }
    assert_eq!(registry.known(7).as_deref(), Some("\"int\""));
    assert_eq!(*answers.came.lock().unwrap(), [(7, None)]);
}

#[tokio::test]
async fn what_may_pass_is_waited_for() {
    let next = [(503, "busy"), (429, ""), (200, "no JSON"), (401, "who?"), (200, r#"{"schema":"x"}"#)];
    let (answers, registry) = start(&next, None).await;
    assert_eq!(registry.schema(1, || 1.0).await, schema("x"));
    assert_eq!(answers.came.lock().unwrap().len(), next.len());
}

#[tokio::test]
async fn what_is_not_there_is_said_for_good() {
    let missing = r#"{"error_code":40403,"message":"Schema 8 not found"}"#;
    let (answers, registry) = start(&[(404, missing), (404, missing)], None).await;
    let Found::Missing(reason) = registry.schema(8, || 1.0).await else { panic!("there is none") };
    assert!(reason.contains("has no schema 8"), "{reason}");
    assert_eq!(answers.came.lock().unwrap().len(), MISSING_TRIES as usize);
    for (entry, told) in [(r#"{"schema":"x","schemaType":"PROTOBUF"}"#, "is PROTOBUF, not Avro")] {
        let (_, registry) = start(&[(200, entry), (200, entry)], None).await;
        let Found::Missing(reason) = registry.schema(9, || 1.0).await else { panic!("it cannot be read") };
        assert!(reason.contains(told), "{reason}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_no_schema_and_says_so() {
    let long = format!(r#"{{"schema":"{}"}}"#, "x".repeat(MAX_ANSWER_BYTES));
    let (answers, registry) = start(&[(200, &*long), (200, &*long)], None).await;
    let Found::Missing(reason) = registry.schema(8, || 1.0).await else { panic!("it cannot be read") };
    assert!(reason.contains("for the schema 8 is longer than 4194304 bytes"), "{reason}");
    assert_eq!(answers.came.lock().unwrap().len(), MISSING_TRIES as usize);
}

/// The messages of warnings.
#[derive(Clone, Default)]
struct Warnings(Shared<String>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        struct Message<'a>(&'a Warnings);
        impl Visit for Message<'_> {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                if field.name() == "message" {
                    self.0.0.lock().unwrap().push(format!("{value:?}"));
                }
            }
        }
        event.record(&mut Message(self));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn a_registry_that_gives_no_usable_answer_is_named_again_and_again() {
    let warnings = Warnings::default();
    let _heard = tracing::subscriber::set_default(warnings.clone());
    let next = [(404, ""), (503, "busy"), (200, "no JSON"), (503, "third"), (401, "who?"), (200, r#"{"schema":"x"}"#)];
    let (_, registry) = start(&next, None).await;
    assert_eq!(registry.schema(1, || 1.0).await, schema("x"));
    let warnings = warnings.0.lock().unwrap();
    let told: Vec<_> = warnings.iter().filter(|text| text.contains("the schema registry gives no schema")).collect();
    assert_eq!(told.len(), 3, "the first, the second and the fourth error: {told:?}");
    for (text, why) in std::iter::zip(told, ["busy", "is not what a registry sends", "correct registry.username"]) {
        assert!(text.contains(why), "{text}");
    }
}

#[tokio::test]
async fn a_lagging_server_is_given_a_second_try() {
    let (_, registry) = start(&[(404, ""), (200, r#"{"schema":"x"}"#)], None).await;
    assert_eq!(registry.schema(8, || 1.0).await, schema("x"));
}

#[tokio::test]
async fn secrets_are_sent_and_shown_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    std::fs::write(&path, "pass:word\n").unwrap();
    let secret = SecretRef::File(path.to_str().unwrap().to_owned());
    let basic = RegistryAuth::Basic { username: "me".to_owned(), password: secret.clone() };
    for (auth, sent) in [(basic, "Basic bWU6cGFzczp3b3Jk"), (RegistryAuth::Bearer(secret), "Bearer pass:word")] {
        let (answers, registry) = start(&[(200, r#"{"schema":"x"}"#)], Some(auth)).await;
        assert_eq!(registry.schema(1, || 1.0).await, schema("x"));
        assert_eq!(answers.came.lock().unwrap()[0].1.as_deref(), Some(sent));
        let shown = format!("{registry:?}");
        assert!(!shown.contains("word") && !shown.contains("bWU6"), "{shown}");
    }
}

#[tokio::test]
async fn an_unreachable_registry_is_waited_for_until_the_caller_gives_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let registry = Registry::new(&RegistryConfig { url, auth: None, timeout_us: 1_000_000 }).unwrap();
    let outcome = tokio::time::timeout(Duration::from_millis(300), registry.schema(1, || 1.0)).await;
    assert!(outcome.is_err(), "{outcome:?}");
}

#[test]
fn wrong_settings_name_their_member() {
    let new = |url: &str, auth| Registry::new(&RegistryConfig { url: url.to_owned(), auth, timeout_us: 1 }).unwrap_err();
    assert!(new("ftp://x", None).message().starts_with("registry.url: must begin with http://"));
    let auth = RegistryAuth::Bearer(SecretRef::Env("STREAMJOB_TEST_NOT_SET".to_owned()));
    assert!(new("http://x", Some(auth)).message().starts_with("registry.token: the environment variable"));
}

#[tokio::test]
async fn what_a_schema_refers_to_is_fetched_with_it() {
    let named = |subject: &str, version: u32| match (subject, version) {
        ("places/geo.Place", 3) => Some(
            r#"{"schema":"{\"type\":\"record\",\"name\":\"geo.Place\",\"fields\":[{\"name\":\"at\",\"type\":\"geo.Point\"}]}",
               "references":[{"name":"geo.Point","subject":"points","version":1}]}"#,
        ),
        ("points", 1) => Some(r#"{"schema":"{\"type\":\"enum\",\"name\":\"geo.Point\",\"symbols\":[\"N\"]}"}"#),
        _ => None,
    };
    let id = |id: u32| match id {
        1 => Some(
            r#"{"schema":"[\"null\",\"geo.Place\"]","references":[{"name":"geo.Place","subject":"places/geo.Place","version":3}]}"#,
        ),
        2 => Some(r#"{"schema":"\"geo.Place\"","references":[{"name":"geo.Place","subject":"places/geo.Place","version":4}]}"#),
        _ => None,
    };
    let found = |text: Option<&'static str>| match text {
        Some(text) => (StatusCode::OK, text),
        None => (StatusCode::NOT_FOUND, ""),
    };
    let router =
        Router::new().route("/schemas/ids/{id}", get(move |Path(number): Path<u32>| async move { found(id(number)) })).route(
            "/subjects/{subject}/versions/{version}",
            get(move |Path((subject, version)): Path<(String, u32)>| async move { found(named(&subject, version)) }),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let registry = Registry::new(&RegistryConfig { url, auth: None, timeout_us: 5_000_000 }).unwrap();
    let Found::Schema(whole) = registry.schema(1, || 1.0).await else { panic!("it is there") };
    let whole: serde_json::Value = serde_json::from_str(&whole).unwrap();
    assert_eq!(whole[1]["fields"][0]["type"]["symbols"][0], "N");
    let Found::Missing(reason) = registry.schema(2, || 1.0).await else { panic!("version 4 is not there") };
    assert!(reason.contains("version 4 of places/geo.Place"), "{reason}");
}
