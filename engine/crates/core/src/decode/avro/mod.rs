//! Avro: messages in three framings, bodies of them, and object container files.
//!
//! Values go from the bytes straight into columns under construction, so that a row that turns out wrong in its middle is
//! rolled back alone. A library that fills Arrow arrays by itself can't take half a row back, and one that makes a tree of each
//! row allocates for every value: `docs/decisions/0015-avro-rows-go-straight-into-columns.md`.

mod container;
mod fingerprint;
mod read;
mod resolve;
mod schema;

use std::collections::HashMap;

use crate::batch::RowBatch;
use crate::config::{AvroConfig, Framing};
use crate::{Error, Result};

use super::columns::Rows;
use super::layout::Layout;
use super::messages::{Metadata, NO_VALUE, PerMessage, as_base64, push_metadata, reject_message};
use super::template::Context;
use super::text::Breaks;
use super::{BodyError, Decoder, MAX_BODY_TEXT_BYTES, Payload, body_error};

pub use container::{MAX_BLOCK_BYTES, MAX_BLOCK_ROWS, MAX_HEADER_BYTES};
pub use schema::{MAX_SCHEMA_BYTES, MAX_SCHEMA_TYPES, MAX_SYMBOL_BYTES};

pub(super) use container::{Damage, Header, read_block_head, read_header};
use read::{Cursor, read_row};
use resolve::{Program, resolve, unknown_field};
use schema::Schema;

/// Schemas of a registry that a decoder keeps, those that are not there counted; twice as many at most.
pub const MAX_KNOWN_SCHEMAS: usize = 1 << 16;
/// Messages of one call: so that all schemas that they name are known at once.
pub const MAX_MESSAGES: usize = MAX_KNOWN_SCHEMAS;
/// Schemas of a registry that one body may name.
pub const MAX_BODY_SCHEMAS: usize = 16;

const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];
const CONFLUENT: u8 = 0;
/// Under which the writer's schema of plain messages is known.
const PLAIN: u64 = 0;

/// Numbers of schemas that rows name and the decoder does not know: whoever has a registry gets them and calls
/// [`Decoder::learn`] for each, then the same again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the schemas {0:?} of the registry are not known yet")]
pub struct Wanted(pub Vec<u32>);

/// Why a body gave no rows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AvroBodyError {
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Wanted(#[from] Wanted),
    /// The body is no container, and the job says nothing of messages.
    #[error("no Avro object container, and the job declares no Avro messages")]
    Undeclared,
}

/// What a decoder knows of Avro.
#[derive(Debug, Default)]
pub(super) struct Avro {
    /// `None`: only container files are read.
    framing: Option<Framing>,
    reader: Option<Schema>,
    programs: Programs,
    /// That of the last container, under its schema's text.
    container: Option<(Box<str>, Program)>,
}

/// Programs by number or fingerprint of the writer's schema, or why there is none. Bounded: when half of it is full the other
/// half, which was not used since then, is forgotten.
#[derive(Debug, Default)]
struct Programs {
    recent: HashMap<u64, Result<Program, String>>,
    older: HashMap<u64, Result<Program, String>>,
}

impl Programs {
    fn insert(&mut self, id: u64, program: Result<Program, String>) {
        if self.recent.len() >= MAX_KNOWN_SCHEMAS {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(id, program);
    }

    /// Whether it is known; then it stays so for the next [`MAX_KNOWN_SCHEMAS`] others.
    fn touch(&mut self, id: u64) -> bool {
        if self.recent.contains_key(&id) {
            return true;
        }
        let Some(program) = self.older.remove(&id) else { return false };
        self.insert(id, program);
        true
    }

    #[inline]
    fn get(&self, id: u64) -> Option<&Result<Program, String>> {
        self.recent.get(&id).or_else(|| self.older.get(&id))
    }
}

impl Avro {
    /// How messages are framed, where they are Avro.
    pub fn framing(&self) -> Option<Framing> {
        self.framing
    }

    pub fn new(config: &AvroConfig, layout: &Layout) -> Result<Avro> {
        let parse = |text: &String| Schema::parse(text).map_err(Error::user);
        let mut avro = Avro { framing: Some(config.framing), ..Avro::with_reader(config.schema.as_deref(), layout)? };
        match config.framing {
            Framing::Confluent => {}
            Framing::Plain => {
                let writer = config.writers.first().or(config.schema.as_ref());
                let writer = writer.ok_or_else(|| Error::user("plain Avro messages need a schema; add schema: {inline: …}"))?;
                let program = resolve(parse(writer)?, avro.reader.as_ref(), layout);
                avro.programs.insert(PLAIN, Ok(program));
            }
            Framing::SingleObject => {
                for text in config.writers.iter().chain(&config.schema) {
                    let writer = parse(text)?;
                    let id = fingerprint::fingerprint(&writer);
                    avro.programs.insert(id, Ok(resolve(writer, avro.reader.as_ref(), layout)));
                }
            }
        }
        Ok(avro)
    }

    /// For container files, which hold their writer's schema.
    pub fn with_reader(schema: Option<&str>, layout: &Layout) -> Result<Avro> {
        let reader = schema.map(Schema::parse).transpose().map_err(Error::user)?;
        if let Some((field, path)) = reader.as_ref().and_then(|reader| unknown_field(reader, layout)) {
            return Err(Error::user(format!(
                "spec.schema: the Avro schema has no member {path}, which the field {field} reads; correct the field's path, or \
                 add the member to the schema"
            )));
        }
        Ok(Avro { reader, ..Avro::default() })
    }

    fn learn(&mut self, id: u64, schema: Result<&str, String>, layout: &Layout) {
        let writer = schema.and_then(Schema::parse);
        let program = writer.map(|writer| resolve(writer, self.reader.as_ref(), layout));
        self.programs.insert(id, program.map_err(|reason| format!("schema {id}: {reason}")));
    }
}

/// The number or fingerprint of a message's schema, and where its record begins.
fn frame(framing: Framing, bytes: &[u8]) -> Result<(u64, usize), &'static str> {
    match framing {
        Framing::Plain => Ok((PLAIN, 0)),
        Framing::SingleObject => match bytes.strip_prefix(&SINGLE_OBJECT).and_then(<[u8]>::first_chunk) {
            Some(fingerprint) => Ok((u64::from_le_bytes(*fingerprint), SINGLE_OBJECT.len() + 8)),
            None => Err("no Avro single-object message: it does not begin with C3 01 and a fingerprint"),
        },
        Framing::Confluent => match bytes.split_first() {
            Some((&CONFLUENT, rest)) if rest.len() >= 4 => {
                Ok((u64::from(u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]])), 5))
            }
            _ => Err("not in Confluent's wire format: it does not begin with 00 and a schema's number"),
        },
    }
}

fn unknown_schema(framing: Framing, id: u64) -> String {
    match framing {
        Framing::SingleObject => {
            format!("no schema with the fingerprint {id:016x} is known; add the writer's schema to writers")
        }
        _ => format!("the schema {id} is not known"),
    }
}

impl Decoder {
    /// A decoder that also reads Avro messages.
    ///
    /// # Errors
    /// A user error for a schema that is wrong or has no place for a field of the job.
    pub fn with_avro(mut self, config: &AvroConfig) -> Result<Decoder> {
        self.avro = Avro::new(config, &self.layout)?;
        Ok(self)
    }

    /// A decoder that reads container files by the aliases and defaults of this schema.
    ///
    /// # Errors
    /// A user error for a schema that is wrong or has no place for a field of the job.
    pub fn with_reader_schema(mut self, schema: Option<&str>) -> Result<Decoder> {
        self.avro = Avro::with_reader(schema, &self.layout)?;
        Ok(self)
    }

    /// Tells what the registry has under a number that was wanted: the schema's text, or for good why there is none. Rows
    /// that name one without a schema are rejected with that reason.
    pub fn learn(&mut self, id: u32, schema: Result<&str, String>) {
        self.avro.learn(u64::from(id), schema, &self.layout);
    }

    pub(super) fn decode_avro_messages(
        &mut self,
        framing: Framing,
        payloads: &[Payload],
        metadata: &[Metadata],
        span: u64,
    ) -> Result<RowBatch, Wanted> {
        if framing == Framing::Confluent {
            self.know_all(payloads)?;
        }
        let mut rows = self.begin_messages(payloads);
        let mut metadata = PerMessage::new(metadata, self.layout.metadata.len());
        for Payload { bytes, relative_offset, clock_us } in payloads {
            let (offset, metadata) = (*relative_offset as usize, metadata.next());
            let Some(bytes) = bytes else {
                rows.reject(offset, "", NO_VALUE.to_string(), String::new());
                continue;
            };
            let context = self.context(*clock_us);
            let result = frame(framing, bytes).map_err(str::to_string).and_then(|(id, start)| {
                let unknown = || Err(unknown_schema(framing, id));
                let program = self.avro.programs.get(id).map_or_else(unknown, |known| known.as_ref().map_err(String::clone))?;
                let mut cursor = Cursor::new(&bytes[start..]);
                let read = read_row(program, &mut cursor, &context, &mut rows).map_err(|broken| broken.0.to_string())?;
                match cursor.left() {
                    0 => Ok(read.and_then(|()| push_metadata(&context, &mut rows, metadata))),
                    left => Err(format!("{left} bytes are left after the record; it was written with another schema")),
                }
            });
            match result {
                Ok(Ok(())) => rows.commit(context.layout, offset),
                Ok(Err(rejection)) => rows.reject(offset, &rejection.field, rejection.reason, as_base64(bytes)),
                Err(_) if bytes.is_empty() => reject_message(&mut rows, offset, "", "the message is empty".to_string(), bytes),
                Err(reason) => rows.reject(offset, "", reason, as_base64(bytes)),
            }
        }
        Ok(self.end_messages(rows, payloads, span))
    }

    /// Makes sure that all schemas are known that messages name.
    fn know_all(&mut self, payloads: &[Payload]) -> Result<(), Wanted> {
        let mut wanted = Vec::new();
        let mut last = None;
        for payload in payloads {
            let Some(Ok((id, _))) = payload.bytes.map(|bytes| frame(Framing::Confluent, bytes)) else { continue };
            if last.replace(id) != Some(id) && !self.avro.programs.touch(id) {
                wanted.push(id as u32);
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() { Ok(()) } else { Err(Wanted(wanted)) }
    }

    /// Decodes a body of Avro: a container file, or messages one after the other in the framing that the job declares. Offsets
    /// are numbers of rows as with [`Positions::Ordinal`](super::Positions::Ordinal). A row whose values are wrong becomes a
    /// reject.
    ///
    /// `max_bytes`: what the blocks of a container may unpack to together.
    ///
    /// # Errors
    /// [`BodyError`] where the bytes are not of the schema, since it is not known then where the next row begins; [`Wanted`]
    /// for a schema that is not known yet.
    pub fn decode_avro(&mut self, body: &[u8], max_bytes: usize, now_us: i64) -> Result<RowBatch, AvroBodyError> {
        if let Some(header) = read_header(body).map_err(|reason| body_error(reason, 0))? {
            return Ok(self.decode_container(&header, body, header.length, 0, max_bytes, Damage::Refuse, now_us)?);
        }
        let framing = self.avro.framing.ok_or(AvroBodyError::Undeclared)?;
        let context = self.context(now_us);
        let mut rows = Rows::new(&self.layout, self.shape.expect(body.len()), false);
        rows.bound(body.len(), &self.layout);
        let mut schemas = Vec::new();
        let mut at = 0;
        while at < body.len() {
            check_values(&rows, &self.layout).map_err(|reason| body_error(reason, at))?;
            let (id, start) = frame(framing, &body[at..]).map_err(|reason| body_error(reason, at))?;
            if schemas.last() != Some(&id) && !schemas.contains(&id) {
                schemas.push(id);
                if schemas.len() > MAX_BODY_SCHEMAS {
                    return Err(body_error(format!("more than {MAX_BODY_SCHEMAS} schemas; send one request for each"), at).into());
                }
            }
            let program = match self.avro.programs.get(id) {
                Some(Ok(program)) => program,
                Some(Err(reason)) => return Err(body_error(reason.clone(), at).into()),
                None if framing == Framing::Confluent => return Err(Wanted(vec![id as u32]).into()),
                None => return Err(body_error(unknown_schema(framing, id), at).into()),
            };
            let mut cursor = Cursor::new(&body[at + start..]);
            let read = read_row(program, &mut cursor, &context, &mut rows).map_err(|broken| body_error(broken.0, at))?;
            let end = body.len() - cursor.left();
            if end == at {
                return Err(body_error("records of this schema take no bytes", at).into());
            }
            let offset = rows.seen();
            match read {
                Ok(()) => rows.commit(context.layout, offset),
                Err(rejection) => rows.reject(offset, &rejection.field, rejection.reason, as_base64(&body[at..end])),
            }
            rows.check_rejects(at)?;
            at = end;
        }
        let span = rows.seen() as u64;
        Ok(self.end(rows, body.len(), span))
    }

    fn context(&self, now_us: i64) -> Context<'_> {
        Context { layout: &self.layout, latest_us: now_us.saturating_add(self.max_ahead_us), breaks: Breaks::Whitespace }
    }
}

/// Whether one more row has room in a batch.
fn check_values(rows: &Rows, layout: &Layout) -> Result<(), String> {
    if rows.string_bytes() > MAX_BODY_TEXT_BYTES {
        return Err(format!("more than {MAX_BODY_TEXT_BYTES} bytes of text in one field; send them in parts"));
    }
    let most = layout.max_rows();
    if rows.seen() >= most {
        return Err(format!("more than {most} rows of {} values; send them in parts", layout.slots()));
    }
    Ok(())
}
