use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_ipc::writer::{FileWriter, StreamWriter};
use streamjob_connectors::replay_file::ReplayFile;
use streamjob_core::batch::RowBatch;
use streamjob_core::config::{AvroFileConfig, FileSourceFormat};
use streamjob_core::decode::Decoder;
use tempfile::TempDir;

const ROWS: usize = 1000;
const BLOCK: usize = 64;
const NOW_US: i64 = 1_700_000_000_000_000;

fn decoder() -> Decoder {
    let schema = r#"{"key":{"field":"k"},"time":{"field":"t","unit":"ms","format":null,"timezone":"UTC"},
        "fields":[{"name":"k","type":"string"}]}"#;
    Decoder::new(&serde_json::from_str(schema).unwrap(), 4, 0).unwrap()
}

fn batches() -> Vec<RecordBatch> {
    let one = |first: usize| {
        let rows = first..(first + BLOCK).min(ROWS);
        let keys: StringArray = rows.clone().map(|row| Some(format!("key-{row}"))).collect();
        let times: Int64Array = rows.map(|row| Some(row as i64)).collect();
        RecordBatch::try_from_iter([("k", Arc::new(keys) as ArrayRef), ("t", Arc::new(times) as ArrayRef)]).unwrap()
    };
    // a batch without rows in the middle of them
    let mut batches: Vec<RecordBatch> = (0..ROWS).step_by(BLOCK).map(one).collect();
    batches.insert(3, batches[0].slice(0, 0));
    batches
}

/// A file in each format: its path, its format and the byte behind its last block.
fn files(folder: &TempDir) -> Vec<(PathBuf, FileSourceFormat, u64)> {
    let batches = batches();
    let mut stream = StreamWriter::try_new(Vec::new(), &batches[0].schema()).unwrap();
    let mut file = FileWriter::try_new(Vec::new(), &batches[0].schema()).unwrap();
    for batch in &batches {
        stream.write(batch).unwrap();
        file.write(batch).unwrap();
    }
    let stream = stream.get_ref().clone();
    let ipc = file.into_inner().unwrap();
    let avro = avro();
    let lengths = [stream.len(), usize::MAX, avro.len()];
    let avro_format = FileSourceFormat::Avro(AvroFileConfig { schema: None });
    let formats = [FileSourceFormat::Arrow, FileSourceFormat::Arrow, avro_format];
    let write = |((name, bytes), (format, end)): ((&str, Vec<u8>), (FileSourceFormat, usize))| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        (path, format, end as u64)
    };
    let named = [("stream.arrow", stream), ("file.arrow", ipc), ("rows.avro", avro)];
    std::iter::zip(named, std::iter::zip(formats, lengths)).map(write).collect()
}

/// An object container, put together by hand.
fn avro() -> Vec<u8> {
    fn long(value: i64, out: &mut Vec<u8>) {
        let mut zigzag = (value << 1 ^ value >> 63) as u64;
        while zigzag >= 0x80 {
            out.push(zigzag as u8 | 0x80);
            zigzag >>= 7;
        }
        out.push(zigzag as u8);
    }
    fn bytes(value: &[u8], out: &mut Vec<u8>) {
        long(value.len() as i64, out);
        out.extend_from_slice(value);
    }
    let schema = br#"{"type":"record","name":"R","fields":[{"name":"k","type":"string"},{"name":"t","type":"long"}]}"#;
    let mut file = b"Obj\x01".to_vec();
    long(1, &mut file);
    bytes(b"avro.schema", &mut file);
    bytes(schema, &mut file);
    long(0, &mut file);
    let marker = [7; 16];
    file.extend_from_slice(&marker);
    for first in (0..ROWS).step_by(BLOCK) {
        let rows = first..(first + BLOCK).min(ROWS);
        let mut data = Vec::new();
        for row in rows.clone() {
            bytes(format!("key-{row}").as_bytes(), &mut data);
            long(row as i64, &mut data);
        }
        long(rows.len() as i64, &mut file);
        bytes(&data, &mut file);
        file.extend_from_slice(&marker);
    }
    file
}

/// All rows from `offset` on, in chunks.
fn read_from(file: &ReplayFile, mut offset: u64, max_bytes: usize) -> Vec<RowBatch> {
    let (mut decoder, mut buffer, mut batches) = (decoder(), Vec::new(), Vec::new());
    while let Some(chunk) = file.read_chunk(offset, max_bytes, &mut buffer).unwrap() {
        assert_eq!(chunk.from, offset);
        let batch = file.decode(&chunk, &buffer, &mut decoder, NOW_US).unwrap();
        assert_eq!((batch.span, batch.rejects.len()), (chunk.span, 0));
        offset += chunk.span;
        batches.push(batch);
    }
    assert_eq!(offset, ROWS as u64);
    batches
}

#[test]
fn rows_are_the_same_from_wherever_and_in_whatever_pieces() {
    let folder = tempfile::tempdir().unwrap();
    for (path, format, _) in files(&folder) {
        let file = ReplayFile::open("in", &path, &format).unwrap();
        for from in [0, 1, BLOCK as u64 - 1, BLOCK as u64, 3 * BLOCK as u64, ROWS as u64 - 1, ROWS as u64] {
            for max_bytes in [1, 5_000, 1 << 20] {
                let batches = read_from(&file, from, max_bytes);
                let times: Vec<i64> = batches.iter().flat_map(|batch| batch.time_us.clone()).collect();
                assert_eq!(times, (from as i64..ROWS as i64).map(|row| row * 1000).collect::<Vec<_>>(), "{}", path.display());
                assert!(max_bytes > 1 || batches.len() + 1 >= (ROWS - from as usize).div_ceil(BLOCK));
            }
        }
        file.check_resume(file.id(), ROWS as u64).unwrap();
        let error = file.check_resume(file.id(), ROWS as u64 + 1).unwrap_err();
        assert!(error.message().contains("it has only 1000 now"), "{error}");
    }
}

#[test]
fn blocks_that_are_appended_come_behind() {
    let folder = tempfile::tempdir().unwrap();
    for (path, format, end) in files(&folder).into_iter().filter(|(_, _, end)| *end != u64::MAX) {
        let whole = fs::read(&path).unwrap();
        assert_eq!(whole.len() as u64, end);
        // without its last block
        let cut = (0..whole.len()).rev().find(|cut| {
            fs::write(&path, &whole[..*cut]).unwrap();
            let file = ReplayFile::open("in", &path, &format).unwrap();
            file.check_resume(file.id(), (ROWS - ROWS % BLOCK) as u64).is_ok()
                && matches!(file.read_chunk((ROWS - ROWS % BLOCK) as u64, 1, &mut Vec::new()), Ok(None))
        });
        fs::write(&path, &whole[..cut.expect("a place between blocks")]).unwrap();
        let file = ReplayFile::open("in", &path, &format).unwrap();
        let mut buffer = Vec::new();
        let rows = (ROWS - ROWS % BLOCK) as u64;
        assert_eq!(file.read_chunk(rows, 1, &mut buffer).unwrap(), None);
        fs::write(&path, &whole).unwrap();
        let chunk = file.read_chunk(rows, 1, &mut buffer).unwrap().expect("one more block");
        assert_eq!((chunk.from, chunk.span), (rows, (ROWS % BLOCK) as u64));
    }
}

#[test]
fn a_block_that_is_not_whole_is_an_error_that_says_where() {
    let folder = tempfile::tempdir().unwrap();
    for (path, format, _) in files(&folder) {
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let file = ReplayFile::open("in", &path, &format).unwrap();
        let mut offset = 0;
        let error = loop {
            match file.read_chunk(offset, 1, &mut Vec::new()) {
                Ok(chunk) => offset += chunk.expect("an end in the middle is none").span,
                Err(error) => break error,
            }
        };
        assert!(error.message().contains("is not whole"), "{error}");
    }
}

#[test]
fn a_file_of_another_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    fs::write(&path, "{\"k\":\"a\",\"t\":1}\n").unwrap();
    let avro = FileSourceFormat::Avro(AvroFileConfig { schema: None });
    let error = ReplayFile::open("in", &path, &avro).unwrap_err();
    assert!(error.message().contains("no Avro object container file"), "{error}");
    let arrow = ReplayFile::open("in", &path, &FileSourceFormat::Arrow).unwrap();
    let error = arrow.read_chunk(0, 1, &mut Vec::new()).unwrap_err();
    assert!(error.message().contains("no Arrow IPC"), "{error}");
}
