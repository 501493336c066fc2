//! What is said to another process that calls functions, and what it answers. Columns are Arrow IPC.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, Field, Schema};

/// Checksum before all else: a process whose memory a function has spoiled may say anything, and readers of Arrow IPC believe lengths.
const CHECKSUM_BYTES: usize = 4;
/// Function and rows before the columns of a call.
const CALL_BYTES: usize = 8;
/// What an answer begins with.
const RESULTS: u8 = 0;
const FAILURE: u8 = 1;

/// A call of a function.
#[derive(Debug)]
pub struct Call {
    pub udf: usize,
    pub rows: usize,
    pub inputs: Vec<ArrayRef>,
}

pub fn write_call(udf: usize, inputs: &[ArrayRef], rows: usize) -> Result<Vec<u8>, ArrowError> {
    let mut frame = vec![0; CHECKSUM_BYTES];
    frame.extend_from_slice(&(udf as u32).to_le_bytes());
    frame.extend_from_slice(&(rows as u32).to_le_bytes());
    write_columns(&mut frame, inputs, rows)?;
    Ok(sealed(frame))
}

pub fn read_call(frame: &[u8]) -> Result<Call, ArrowError> {
    let short = || ArrowError::IpcError("a call is too short".to_owned());
    let (head, columns) = opened(frame)?.split_at_checked(CALL_BYTES).ok_or_else(short)?;
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize;
    Ok(Call { udf: number(&head[..4]), rows: number(&head[4..]), inputs: read_columns(columns)? })
}

pub fn write_results(outputs: &[ArrayRef]) -> Result<Vec<u8>, ArrowError> {
    let mut frame = vec![0; CHECKSUM_BYTES];
    frame.push(RESULTS);
    write_columns(&mut frame, outputs, outputs.first().map_or(0, |output| output.len()))?;
    Ok(sealed(frame))
}

pub fn write_failure(reason: &str) -> Vec<u8> {
    sealed([&[0; CHECKSUM_BYTES][..], &[FAILURE], reason.as_bytes()].concat())
}

/// Columns, or what the other side says has failed.
pub fn read_answer(frame: &[u8]) -> Result<Result<Vec<ArrayRef>, String>, ArrowError> {
    match opened(frame)?.split_first() {
        Some((&RESULTS, columns)) => read_columns(columns).map(Ok),
        Some((&FAILURE, reason)) => Ok(Err(String::from_utf8_lossy(reason).into_owned())),
        _ => Err(ArrowError::IpcError("an answer begins with an unknown byte".to_owned())),
    }
}

fn sealed(mut frame: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&frame[CHECKSUM_BYTES..]);
    frame[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
    frame
}

fn opened(frame: &[u8]) -> Result<&[u8], ArrowError> {
    let rest =
        frame.split_at_checked(CHECKSUM_BYTES).filter(|(checksum, rest)| crc32fast::hash(rest).to_le_bytes() == **checksum);
    rest.map(|(_, rest)| rest).ok_or_else(|| ArrowError::IpcError("a frame is damaged".to_owned()))
}

fn write_columns(out: &mut Vec<u8>, columns: &[ArrayRef], rows: usize) -> Result<(), ArrowError> {
    let field = |column: &ArrayRef| Field::new("", column.data_type().clone(), true);
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let batch = RecordBatch::try_new_with_options(schema.clone(), columns.to_vec(), &options)?;
    let mut writer = StreamWriter::try_new(out, &schema)?;
    writer.write(&batch)?;
    writer.finish()
}

fn read_columns(bytes: &[u8]) -> Result<Vec<ArrayRef>, ArrowError> {
    let none = || ArrowError::IpcError("there is no batch of columns".to_owned());
    let batch = StreamReader::try_new(bytes, None)?.next().ok_or_else(none)??;
    Ok(batch.columns().to_vec())
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Float64Type;
    use arrow_array::{BooleanArray, Float64Array, Int64Array, StringArray};
    use proptest::prelude::*;

    use super::*;

    type Row = (Option<f64>, Option<i64>, Option<bool>, Option<String>);

    fn columns(rows: &[Row]) -> Vec<ArrayRef> {
        let floats: Vec<f64> = rows.iter().map(|row| row.0.unwrap_or(f64::NAN)).collect();
        let valid = rows.iter().map(|row| row.0.is_some()).collect();
        vec![
            Arc::new(Float64Array::new(floats.into(), Some(valid))),
            Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.2).collect::<BooleanArray>()),
            Arc::new(rows.iter().map(|row| row.3.clone()).collect::<StringArray>()),
        ]
    }

    proptest! {
        #[test]
        fn columns_arrive_as_they_are(rows in prop::collection::vec(any::<Row>(), 0..40), from in 0usize..40) {
            let from = from.min(rows.len());
            let sent: Vec<ArrayRef> = columns(&rows).iter().map(|column| column.slice(from, rows.len() - from)).collect();
            let frame = write_call(7, &sent, rows.len() - from).expect("columns of one length");
            let call = read_call(&frame).expect("a whole call");
            prop_assert_eq!((call.udf, call.rows), (7, rows.len() - from));
            prop_assert_eq!(&call.inputs[1..], &sent[1..]);
            // A null slot holds NaN, which functions see.
            let slots = |column: &ArrayRef| column.as_primitive::<Float64Type>().values().iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(slots(&call.inputs[0]), slots(&sent[0]));
            let answer = read_answer(&write_results(&sent).expect("the same columns")).expect("a whole answer");
            prop_assert_eq!(&answer.expect("results")[1..], &sent[1..]);
        }

        #[test]
        fn anything_can_be_read(frame in prop::collection::vec(any::<u8>(), 0..200), bit in 0..8) {
            prop_assert!(read_call(&frame).is_err());
            prop_assert!(read_answer(&frame).is_err());
            let mut answer = write_failure(&String::from_utf8_lossy(&frame));
            let at = frame.len() % answer.len();
            answer[at] ^= 1u8 << bit;
            prop_assert!(read_answer(&answer).is_err());
        }
    }

    #[test]
    fn a_function_without_inputs_has_rows_and_a_failure_its_words() {
        let call = read_call(&write_call(0, &[], 5).expect("no columns")).expect("a whole call");
        assert_eq!((call.rows, call.inputs.len()), (5, 0));
        assert_eq!(read_answer(&write_failure("né")).expect("a whole answer"), Err("né".to_owned()));
        assert!(read_answer(&write_results(&[]).expect("no columns")).expect("a whole answer").expect("results").is_empty());
    }
}
