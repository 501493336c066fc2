//! All formats give the same rows: what JSON says of a row, the others say too, written by libraries that are not ours.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_avro::compression::CompressionCodec;
use arrow_avro::schema::{AvroSchema, FingerprintStrategy, SCHEMA_METADATA_KEY};
use arrow_avro::writer::format::{AvroOcfFormat, AvroSoeFormat};
use arrow_avro::writer::{AvroWriter, WriterBuilder};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow_schema::{DataType, Field, Schema};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::{AvroConfig, Framing};

const AVRO: &str = r#"{"type":"record","name":"Reading","fields":[
    {"name":"k","type":["null","string"]},
    {"name":"t","type":["null","long"]},
    {"name":"f","type":["null","double"]},
    {"name":"i","type":["null","long"]},
    {"name":"b","type":["null","boolean"]},
    {"name":"s","type":["null","string"]}]}"#;

#[derive(Debug, Clone)]
struct Row {
    k: Option<String>,
    t: Option<i64>,
    f: Option<f64>,
    i: Option<i64>,
    b: Option<bool>,
    s: Option<String>,
}

impl Row {
    fn json(&self) -> String {
        json!({"k": self.k, "t": self.t, "f": self.f, "i": self.i, "b": self.b, "s": self.s}).to_string()
    }
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let text = || prop_oneof![4 => "[a-z0-9-]{0,12}", 1 => "[a-zäß€😀\"\\\\\n]{0,8}"];
    let some = |weight: u32| proptest::option::weighted(f64::from(weight) / 20.0, any::<()>()).prop_map(|some| some.is_some());
    let time = prop_oneof![8 => 1_600_000_000_000i64..1_700_000_000_000, 1 => any::<i64>(), 1 => Just(1_800_000_000_000)];
    let float = any::<f64>().prop_filter("JSON", |value| value.is_finite());
    let row = (
        (some(19), text(), some(19), time),
        (some(15), float, some(15), any::<i64>(), some(15), any::<bool>(), some(15), text()),
    );
    let row = row.prop_map(|((has_k, k, has_t, t), (has_f, f, has_i, i, has_b, b, has_s, s))| Row {
        k: has_k.then_some(k),
        t: has_t.then_some(t),
        f: has_f.then_some(f),
        i: has_i.then_some(i),
        b: has_b.then_some(b),
        s: has_s.then_some(s),
    });
    prop::collection::vec(row, 1..20)
}

fn arrow(rows: &[Row]) -> RecordBatch {
    let metadata = HashMap::from([(SCHEMA_METADATA_KEY.to_string(), AVRO.to_string())]);
    let fields = [
        ("k", DataType::Utf8),
        ("t", DataType::Int64),
        ("f", DataType::Float64),
        ("i", DataType::Int64),
        ("b", DataType::Boolean),
        ("s", DataType::Utf8),
    ];
    let fields: Vec<Field> = fields.into_iter().map(|(name, data_type)| Field::new(name, data_type, true)).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.k.as_deref()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.t).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.f).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.i).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.b).collect::<BooleanArray>()),
        Arc::new(rows.iter().map(|row| row.s.as_deref()).collect::<StringArray>()),
    ];
    RecordBatch::try_new(Arc::new(Schema::new_with_metadata(fields, metadata)), columns).unwrap()
}

fn stream(parts: &[RecordBatch], compression: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &parts[0].schema(), options).unwrap();
    parts.iter().for_each(|part| writer.write(part).unwrap());
    writer.into_inner().unwrap()
}

fn file(parts: &[RecordBatch]) -> Vec<u8> {
    let mut writer = FileWriter::try_new(Vec::new(), &parts[0].schema()).unwrap();
    parts.iter().for_each(|part| writer.write(part).unwrap());
    writer.into_inner().unwrap()
}

fn container(parts: &[RecordBatch], codec: Option<CompressionCodec>) -> Vec<u8> {
    let schema = parts[0].schema().as_ref().clone();
    let builder = WriterBuilder::new(schema).with_compression(codec);
    let mut writer: AvroWriter<Vec<u8>> = builder.build::<_, AvroOcfFormat>(Vec::new()).unwrap();
    parts.iter().for_each(|part| writer.write(part).unwrap());
    writer.finish().unwrap();
    writer.into_inner()
}

/// Each row as a message in a framing.
fn messages(batch: &RecordBatch, strategy: FingerprintStrategy) -> Vec<Vec<u8>> {
    let one = |row| {
        let builder = WriterBuilder::new(batch.schema().as_ref().clone()).with_fingerprint_strategy(strategy);
        let mut writer = builder.build::<_, AvroSoeFormat>(Vec::new()).unwrap();
        writer.write(&batch.slice(row, 1)).unwrap();
        writer.finish().unwrap();
        writer.into_inner()
    };
    (0..batch.num_rows()).map(one).collect()
}

pub(super) fn payloads(messages: &[Vec<u8>]) -> Vec<Payload<'_>> {
    messages
        .iter()
        .enumerate()
        .map(|(row, bytes)| Payload { bytes: Some(bytes), relative_offset: row as u32, clock_us: NOW_US })
        .collect()
}

fn avro(framing: Framing) -> Decoder {
    let schema = (framing != Framing::Confluent).then(|| AVRO.to_string());
    decoder().with_avro(&AvroConfig { schema, writers: Vec::new(), framing, registry: None }).unwrap()
}

/// Asserts the same rows and the same rejects but for their text.
fn agree(got: &RowBatch, json: &RowBatch) -> Result<(), TestCaseError> {
    let told = |batch: &RowBatch| -> Vec<(u32, u32, String, String)> {
        let told =
            |reject: &crate::batch::Reject| (reject.relative_offset, reject.row, reject.field.clone(), reject.reason.clone());
        batch.rejects.iter().map(told).collect()
    };
    prop_assert_eq!(told(got), told(json));
    let without = |batch: &RowBatch| RowBatch { rejects: Vec::new(), ..batch.clone() };
    same(&without(got), &without(json))
}

const LARGE: usize = 64 << 20;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn all_formats_agree_with_json(rows in rows(), cut in any::<prop::sample::Index>()) {
        let lines: Vec<String> = rows.iter().map(Row::json).collect();
        let json = decoder().decode_ndjson(lines.join("\n").as_bytes(), NOW_US, Positions::Ordinal);
        let batch = arrow(&rows);
        let cut = cut.index(rows.len() + 1);
        let parts = [batch.slice(0, cut), batch.slice(cut, rows.len() - cut)];

        for compression in [None, Some(CompressionType::LZ4_FRAME)] {
            agree(&decoder().decode_arrow(&stream(&parts, compression), LARGE, NOW_US).unwrap(), &json)?;
        }
        agree(&decoder().decode_arrow(&file(&parts), LARGE, NOW_US).unwrap(), &json)?;
        for codec in [None, Some(CompressionCodec::Deflate), Some(CompressionCodec::Snappy)] {
            agree(&decoder().decode_avro(&container(&parts, codec), LARGE, NOW_US).unwrap(), &json)?;
        }

        let single = messages(&batch, FingerprintStrategy::Rabin);
        agree(&avro(Framing::SingleObject).decode_messages(&payloads(&single), &[], json.span).unwrap(), &json)?;
        agree(&avro(Framing::SingleObject).decode_avro(&single.concat(), LARGE, NOW_US).unwrap(), &json)?;
        let plain: Vec<Vec<u8>> = single.iter().map(|message| message[10..].to_vec()).collect();
        agree(&avro(Framing::Plain).decode_messages(&payloads(&plain), &[], json.span).unwrap(), &json)?;
        agree(&avro(Framing::Plain).decode_avro(&plain.concat(), LARGE, NOW_US).unwrap(), &json)?;
        let confluent = messages(&batch, FingerprintStrategy::Id(7));
        let mut decoder = avro(Framing::Confluent);
        prop_assert_eq!(decoder.decode_messages(&payloads(&confluent), &[], json.span).unwrap_err(), Wanted(vec![7]));
        prop_assert_eq!(decoder.decode_avro(&confluent.concat(), LARGE, NOW_US).unwrap_err(), AvroBodyError::Wanted(Wanted(vec![7])));
        decoder.learn(7, Ok(AVRO));
        agree(&decoder.decode_messages(&payloads(&confluent), &[], json.span).unwrap(), &json)?;
        agree(&decoder.decode_avro(&confluent.concat(), LARGE, NOW_US).unwrap(), &json)?;

        let texts: Vec<Vec<u8>> = lines.into_iter().map(String::into_bytes).collect();
        let by_message = super::decoder().decode_messages(&payloads(&texts), &[], json.span).unwrap();
        same(&by_message, &json)?;
    }

    /// A file of blocks gives the same rows from wherever it is read.
    #[test]
    fn blocks_are_read_from_any_row(rows in rows(), cut in any::<prop::sample::Index>(), from in any::<prop::sample::Index>()) {
        let batch = arrow(&rows);
        let cut = cut.index(rows.len() + 1);
        let parts = [batch.slice(0, cut), batch.slice(cut, rows.len() - cut)];
        let from = from.index(rows.len() + 1);
        let lines: Vec<String> = rows[from..].iter().map(Row::json).collect();
        let json = decoder().decode_ndjson(lines.join("\n").as_bytes(), NOW_US, Positions::Ordinal);
        let avro = container(&parts, None);
        let format = BlockFormat::avro(&avro).unwrap();
        let blocks = &avro[format.start() as usize..];
        agree(&decoder().decode_blocks(&format, blocks, from as u64, NOW_US).unwrap(), &json)?;
        prop_assert_eq!(rows_of(&format, blocks), rows.len() as u64);
        for arrow in [file(&parts), stream(&parts, None)] {
            let format = BlockFormat::arrow(&arrow);
            let blocks = &arrow[format.start() as usize..];
            agree(&decoder().decode_blocks(&format, blocks, from as u64, NOW_US).unwrap(), &json)?;
            prop_assert_eq!(rows_of(&format, blocks), rows.len() as u64);
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(
        rows in rows(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        shorter in any::<prop::sample::Index>(),
    ) {
        let batch = [arrow(&rows)];
        let single = messages(&batch[0], FingerprintStrategy::Rabin);
        let bodies = [stream(&batch, None), stream(&batch, Some(CompressionType::LZ4_FRAME)), file(&batch),
            container(&batch, None), container(&batch, Some(CompressionCodec::Snappy)), single.concat()];
        for mut body in bodies {
            for (index, byte) in &changes {
                let at = index.index(body.len());
                body[at] = *byte;
            }
            if let Ok(arrow) = decoder().decode_arrow(&body, LARGE, NOW_US) {
                sound(&arrow)?;
            }
            if let Ok(avro) = avro(Framing::SingleObject).decode_avro(&body, LARGE, NOW_US) {
                sound(&avro)?;
            }
            body.truncate(shorter.index(body.len()));
            let _ = decoder().decode_arrow(&body, LARGE, NOW_US);
            let _ = avro(Framing::Plain).decode_avro(&body, LARGE, NOW_US);
        }
        let mut damaged = single.clone();
        for (index, byte) in &changes {
            let message = &mut damaged[index.index(single.len())];
            let at = index.index(message.len());
            message[at] = *byte;
        }
        // one message may be spoilt, but never its neighbours
        let got = avro(Framing::SingleObject).decode_messages(&payloads(&damaged), &[], single.len() as u64).unwrap();
        sound(&got)?;
        let whole = avro(Framing::SingleObject).decode_messages(&payloads(&single), &[], single.len() as u64).unwrap();
        for row in 0..single.len() as u64 {
            if damaged[row as usize] == single[row as usize] {
                let (got, whole) = (got.cut(row, row + 1), whole.cut(row, row + 1));
                prop_assert_eq!((got.time_us, got.key_hash, got.columns), (whole.time_us, whole.key_hash, whole.columns));
            }
        }
    }

    #[test]
    fn a_cut_batch_is_the_rows_between(rows in rows(), from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>()) {
        let text = |rows: &[Row]| rows.iter().map(Row::json).collect::<Vec<_>>().join("\n");
        let (from, to) = (from.index(rows.len() + 1), to.index(rows.len() + 1));
        let (from, to) = (from.min(to), from.max(to));
        let whole = decoder().decode_ndjson(text(&rows).as_bytes(), NOW_US, Positions::Ordinal);
        let part = decoder().decode_ndjson(text(&rows[from..to]).as_bytes(), NOW_US, Positions::Ordinal);
        let mut cut = whole.cut(from as u64, to as u64);
        prop_assert_eq!(cut.span, part.span);
        let offsets = |batch: &RowBatch| (0..batch.rows()).map(|row| batch.relative_offset(row)).collect::<Vec<_>>();
        prop_assert_eq!(offsets(&cut), offsets(&part));
        // whether offsets are written down, and rows' numbers in their request, are no part of what a row is
        cut.relative_offset = part.relative_offset.clone();
        cut.rejects.iter_mut().for_each(|reject| reject.row = reject.relative_offset);
        same(&cut, &part)?;
    }
}

fn rows_of(format: &BlockFormat, blocks: &[u8]) -> u64 {
    let (mut at, mut rows) = (0, 0);
    while at < blocks.len() {
        match format.scan(&blocks[at..]).unwrap() {
            Unit::Block { rows: more, bytes } => (rows, at) = (rows + more, at + bytes),
            Unit::Prelude(bytes) => at += bytes,
            Unit::End => break,
            Unit::Needs(bytes) => panic!("{bytes} of {}", blocks.len() - at),
        }
    }
    rows
}

/// What every batch promises.
fn sound(batch: &RowBatch) -> Result<(), TestCaseError> {
    for column in &batch.columns {
        prop_assert_eq!(column.len(), batch.rows());
        prop_assert!(column.to_data().validate_full().is_ok());
    }
    let floats = batch.columns[1].as_primitive::<Float64Type>();
    for row in 0..batch.rows() {
        prop_assert_eq!(floats.is_null(row), floats.values()[row].is_nan());
        prop_assert!(floats.is_null(row) || floats.values()[row].is_finite());
    }
    prop_assert_eq!(batch.rows() + batch.rejects.len(), batch.span as usize);
    Ok(())
}

#[test]
fn the_other_librarys_fingerprint_is_ours() {
    let single = messages(&arrow(&[Row { k: None, t: None, f: None, i: None, b: None, s: None }]), FingerprintStrategy::Rabin);
    assert_eq!(single[0][..2], [0xc3, 0x01]);
    let schema = AvroSchema::new(AVRO.to_string());
    let fingerprint = schema.fingerprint(arrow_avro::schema::FingerprintAlgorithm::Rabin).unwrap();
    let arrow_avro::schema::Fingerprint::Rabin(fingerprint) = fingerprint else { panic!("asked for") };
    assert_eq!(single[0][2..10], fingerprint.to_le_bytes());
}
