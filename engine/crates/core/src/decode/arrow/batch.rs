//! One batch of columns: walks the schema and the lists of nodes and buffers together, and builds those arrays that are read.

use std::collections::HashMap;
use std::io::Read;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, ArrayRef, make_array, new_empty_array};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow_data::ArrayData;
use arrow_ipc::{
    CompressionType, DateUnit, DictionaryBatch, Endianness, Field, FieldNode, Int, MetadataVersion, Precision, RecordBatch,
    Schema, TimeUnit as IpcUnit, Type, UnionMode,
};
use arrow_schema::{DataType, TimeUnit};

use super::{Columns, Frame};
use crate::decode::layout::{Layout, ROOT, Slot, Target, UNKNOWN};
use crate::decode::{MAX_BODY_TEXT_BYTES, MAX_BODY_VALUES, MAX_NESTING};

/// Dictionaries by number.
pub(super) type Dictionaries = HashMap<i64, ArrayRef>;

/// The columns that are read of one batch.
pub(super) struct Batch {
    pub rows: usize,
    pub columns: Columns,
}

/// What a field of the schema is to the job.
#[derive(Clone, Copy)]
enum Wanted {
    No,
    Value(Slot),
    Object(usize),
}

/// Refuses what cannot be read at all.
pub(super) fn check_schema(schema: &Schema) -> Result<(), String> {
    if schema.endianness() != Endianness::Little {
        return Err("Arrow IPC in big-endian order, which is not read".to_string());
    }
    Ok(())
}

pub(super) fn read_batch(
    schema: &Schema,
    header: &RecordBatch,
    frame: &Frame,
    layout: &Layout,
    dictionaries: &Dictionaries,
    left: &mut usize,
) -> Result<Batch, String> {
    let rows = rows_of(header)?;
    let mut reader = Reader::new(header, frame, dictionaries, left);
    let mut columns: Columns = vec![None; layout.slots()];
    for field in schema.fields().into_iter().flatten() {
        let wanted = wanted_of(layout, ROOT, &field);
        reader.field(&field, wanted, rows, None, layout, &mut columns, 1)?;
    }
    Ok(Batch { rows, columns })
}

fn wanted_of(layout: &Layout, node: usize, field: &Field) -> Wanted {
    match layout.target(node, field.name().unwrap_or_default().as_bytes()) {
        Target::Value(UNKNOWN) => Wanted::No,
        Target::Value(slot) => Wanted::Value(slot),
        Target::Object(inner) => Wanted::Object(inner),
    }
}

fn rows_of(header: &RecordBatch) -> Result<usize, String> {
    let rows = header.length();
    let in_range = usize::try_from(rows).ok().filter(|rows| *rows <= MAX_BODY_VALUES);
    in_range.ok_or_else(|| format!("a batch of {rows} rows; at most {MAX_BODY_VALUES} are read"))
}

/// Keeps a dictionary that a column uses which is read.
pub(super) fn read_dictionary(
    schema: &Schema,
    header: &DictionaryBatch,
    frame: &Frame,
    layout: &Layout,
    dictionaries: &mut Dictionaries,
    left: &mut usize,
) -> Result<(), String> {
    let data = header.data().ok_or("a dictionary without data")?;
    let Some(field) = find_dictionary(schema.fields().into_iter().flatten(), ROOT, header.id(), layout, 1) else { return Ok(()) };
    let rows = rows_of(&data)?;
    let data_type = plain_type(&field).ok_or_else(|| format!("a dictionary of {:?}, which is not read", field.type_type()))?;
    let none = Dictionaries::new();
    let mut values = Reader::new(&data, frame, &none, left).array(&field, &data_type, rows)?;
    if header.isDelta()
        && let Some(known) = dictionaries.get(&header.id())
    {
        values = arrow_select::concat::concat(&[known, &values]).map_err(|error| error.to_string())?;
    }
    if values.len() > MAX_BODY_VALUES {
        return Err(format!("a dictionary of more than {MAX_BODY_VALUES} values"));
    }
    dictionaries.insert(header.id(), values);
    Ok(())
}

/// The field that is read and uses a dictionary.
fn find_dictionary<'a>(
    fields: impl Iterator<Item = Field<'a>>,
    node: usize,
    id: i64,
    layout: &Layout,
    depth: usize,
) -> Option<Field<'a>> {
    for field in fields {
        match wanted_of(layout, node, &field) {
            Wanted::Value(_) if field.dictionary().is_some_and(|dictionary| dictionary.id() == id) => return Some(field),
            Wanted::Object(inner) if depth < MAX_NESTING => {
                let children = field.children().into_iter().flatten();
                if let Some(found) = find_dictionary(children, inner, id, layout, depth + 1) {
                    return Some(found);
                }
            }
            _ => {}
        }
    }
    None
}

/// Reads nodes and buffers in the order of the schema's fields, depth first.
struct Reader<'a> {
    header: RecordBatch<'a>,
    body: &'a [u8],
    version: MetadataVersion,
    dictionaries: &'a Dictionaries,
    /// Bytes that may still be unpacked.
    left: &'a mut usize,
    node: usize,
    buffer: usize,
    variadic: usize,
}

impl<'a> Reader<'a> {
    fn new(header: &RecordBatch<'a>, frame: &Frame<'a>, dictionaries: &'a Dictionaries, left: &'a mut usize) -> Reader<'a> {
        let version = frame.message.version();
        Reader { header: *header, body: frame.body, version, dictionaries, left, node: 0, buffer: 0, variadic: 0 }
    }

    /// Goes past a field, its children included, and puts what is wanted of it into `columns`.
    #[expect(clippy::too_many_arguments, reason = "the walk carries what it knows of the way to the field")]
    fn field(
        &mut self,
        field: &Field,
        wanted: Wanted,
        rows: usize,
        above: Option<&NullBuffer>,
        layout: &Layout,
        columns: &mut Columns,
        depth: usize,
    ) -> Result<(), String> {
        if depth > MAX_NESTING {
            return Err(format!("columns nested deeper than {MAX_NESTING} levels"));
        }
        match wanted {
            Wanted::Value(slot) if columns[slot].is_none() => {
                let array = self.value(field, rows)?;
                columns[slot] = Some(with_nulls(array, above)?);
                Ok(())
            }
            Wanted::Object(node) if field.type_type() == Type::Struct_ => {
                let nulls = self.nulls(rows)?;
                let nulls = NullBuffer::union(above, nulls.as_ref());
                for child in field.children().into_iter().flatten() {
                    let wanted = wanted_of(layout, node, &child);
                    self.field(&child, wanted, rows, nulls.as_ref(), layout, columns, depth + 1)?;
                }
                Ok(())
            }
            Wanted::Object(node) if field.type_type() != Type::Null => Err(format!(
                "the column {} is {:?}; the job reads members of it, so that it must be a struct",
                layout.text(node),
                field.type_type()
            )),
            _ => self.skip(field, depth),
        }
    }

    /// Reads a column as the type that it has, dictionaries resolved.
    fn value(&mut self, field: &Field, rows: usize) -> Result<ArrayRef, String> {
        let name = field.name().unwrap_or_default();
        let unread = || format!("the column {name} is {:?}, which no field can hold", field.type_type());
        let data_type = plain_type(field).ok_or_else(unread)?;
        let array = match field.dictionary() {
            None => self.array(field, &data_type, rows),
            Some(dictionary) => {
                let index = dictionary.indexType().map_or(Some(DataType::Int32), |index| integer_type(&index));
                let index = index.ok_or_else(unread)?;
                let indices = self.array_of(&index, rows, 1)?;
                let empty = new_empty_array(&data_type);
                let values = self.dictionaries.get(&dictionary.id()).unwrap_or(&empty);
                self.resolve(&indices, values)
            }
        };
        let array = array.and_then(|array| self.charge_views(&array).map(|()| array));
        array.map_err(|reason| format!("the column {name}: {reason}"))
    }

    /// Values of a dictionary, one for each index.
    fn resolve(&mut self, indices: &ArrayRef, values: &ArrayRef) -> Result<ArrayRef, String> {
        let wide = arrow_cast::cast(indices, &DataType::UInt64).map_err(|error| error.to_string())?;
        if wide.null_count() != indices.null_count() {
            return Err("an index of its dictionary is below zero".to_string());
        }
        let wide = wide.as_primitive::<UInt64Type>();
        let mut bytes = 0usize;
        for index in wide.iter().flatten() {
            let index = usize::try_from(index).ok().filter(|index| *index < values.len());
            bytes = bytes.saturating_add(text_bytes(values, index.ok_or("an index lies outside of its dictionary")?));
        }
        self.charge(bytes)?;
        arrow_select::take::take(values, wide, None).map_err(|error| error.to_string())
    }

    /// Views may all show the same bytes, which become as many texts.
    fn charge_views(&mut self, array: &ArrayRef) -> Result<(), String> {
        if !matches!(array.data_type(), DataType::Utf8View) {
            return Ok(());
        }
        self.charge((0..array.len()).fold(0, |bytes, row| text_bytes(array, row).saturating_add(bytes)))
    }

    fn charge(&mut self, bytes: usize) -> Result<(), String> {
        let left = self.left.checked_sub(bytes).filter(|_| bytes <= MAX_BODY_TEXT_BYTES);
        *self.left = left.ok_or_else(|| format!("its texts are longer than the {} bytes left", self.left))?;
        Ok(())
    }

    /// Builds an array of a field whose values are not in a dictionary.
    fn array(&mut self, field: &Field, data_type: &DataType, rows: usize) -> Result<ArrayRef, String> {
        let buffers = match field.type_type() {
            Type::Null => 0,
            Type::Utf8 | Type::LargeUtf8 | Type::Binary | Type::LargeBinary => 2,
            Type::Utf8View | Type::BinaryView => 1 + self.variadic_count()?,
            _ => 1,
        };
        self.array_of(data_type, rows, buffers)
    }

    fn array_of(&mut self, data_type: &DataType, rows: usize, buffers: usize) -> Result<ArrayRef, String> {
        if *data_type == DataType::Null {
            self.next_node(rows)?;
            return Ok(arrow_array::new_null_array(data_type, rows));
        }
        let nulls = self.nulls(rows)?;
        let mut data = ArrayData::builder(data_type.clone()).len(rows).nulls(nulls).align_buffers(true);
        for number in 0..buffers {
            let mut buffer = self.next_buffer()?;
            if number == 0 {
                buffer = exactly(buffer, data_type, rows)?;
            }
            data = data.add_buffer(buffer);
        }
        Ok(make_array(data.build().map_err(|error| error.to_string())?))
    }

    /// Goes past a field that is not read.
    fn skip(&mut self, field: &Field, depth: usize) -> Result<(), String> {
        if depth > MAX_NESTING {
            return Err(format!("columns nested deeper than {MAX_NESTING} levels"));
        }
        self.node += 1;
        if field.dictionary().is_some() {
            self.buffer += 2;
            return Ok(());
        }
        self.buffer += match field.type_type() {
            Type::Null | Type::RunEndEncoded => 0,
            Type::Struct_ | Type::FixedSizeList => 1,
            Type::Utf8 | Type::LargeUtf8 | Type::Binary | Type::LargeBinary | Type::ListView | Type::LargeListView => 3,
            Type::Utf8View | Type::BinaryView => 2 + self.variadic_count()?,
            Type::Union => {
                let is_dense = field.type_as_union().is_some_and(|union| union.mode() == UnionMode::Dense);
                1 + usize::from(is_dense) + usize::from(self.version < MetadataVersion::V5)
            }
            _ => 2,
        };
        field.children().into_iter().flatten().try_for_each(|child| self.skip(&child, depth + 1))
    }

    fn variadic_count(&mut self) -> Result<usize, String> {
        let counts = self.header.variadicBufferCounts();
        let count = counts.filter(|counts| self.variadic < counts.len()).map(|counts| counts.get(self.variadic));
        self.variadic += 1;
        let buffers = self.header.buffers().map_or(0, |buffers| buffers.len());
        let count = count.and_then(|count| usize::try_from(count).ok()).filter(|count| *count <= buffers);
        count.ok_or_else(|| "the number of a view's buffers is wrong".to_string())
    }

    fn next_node(&mut self, rows: usize) -> Result<FieldNode, String> {
        let nodes = self.header.nodes().filter(|nodes| self.node < nodes.len());
        let node = *nodes.ok_or("a batch has fewer columns than its schema")?.get(self.node);
        self.node += 1;
        match usize::try_from(node.length()) {
            Ok(length) if length == rows => Ok(node),
            _ => Err(format!("it has {} values in {rows} rows", node.length())),
        }
    }

    /// The nulls of the next node, whose bitmap is the next buffer.
    fn nulls(&mut self, rows: usize) -> Result<Option<NullBuffer>, String> {
        let node = self.next_node(rows)?;
        if node.null_count() == 0 {
            self.buffer += 1;
            return Ok(None);
        }
        let bits = self.next_buffer()?;
        if bits.len() < rows.div_ceil(8) {
            return Err("its bitmap of nulls is too short".to_string());
        }
        Ok(Some(NullBuffer::new(BooleanBuffer::new(bits, 0, rows))).filter(|nulls| nulls.null_count() > 0))
    }

    /// The next buffer, unpacked: a copy, so that no column keeps the whole body in memory.
    fn next_buffer(&mut self) -> Result<Buffer, String> {
        let buffers = self.header.buffers().filter(|buffers| self.buffer < buffers.len());
        let place = *buffers.ok_or("a batch has fewer buffers than its schema")?.get(self.buffer);
        self.buffer += 1;
        let range = usize::try_from(place.offset()).ok().zip(usize::try_from(place.length()).ok());
        let bytes = range.and_then(|(start, length)| self.body.get(start..start.checked_add(length)?));
        let bytes = bytes.ok_or("a buffer lies outside of its message")?;
        match self.header.compression() {
            Some(compression) if !bytes.is_empty() => self.unpack(compression.codec(), bytes),
            _ => Ok(Buffer::from_slice_ref(bytes)),
        }
    }

    fn unpack(&mut self, codec: CompressionType, bytes: &[u8]) -> Result<Buffer, String> {
        let (length, data) = bytes.split_first_chunk().ok_or("a compressed buffer is too short")?;
        let length = match i64::from_le_bytes(*length) {
            -1 => return Ok(Buffer::from_slice_ref(data)),
            length => usize::try_from(length).ok().filter(|length| length <= self.left),
        };
        let length = length.ok_or_else(|| format!("compressed buffers unpack to more than the {} bytes left", self.left))?;
        *self.left -= length;
        // room grows with what comes, not with what the sender promises
        let mut out = Vec::new();
        let limit = length as u64 + 1;
        let read = match codec {
            CompressionType::LZ4_FRAME => lz4_flex::frame::FrameDecoder::new(data).take(limit).read_to_end(&mut out),
            #[cfg(feature = "zstd")]
            CompressionType::ZSTD => {
                zstd::stream::read::Decoder::new(data).and_then(|decoder| decoder.take(limit).read_to_end(&mut out))
            }
            other => return Err(format!("buffers are compressed by {other:?}, which is not read")),
        };
        read.map_err(|error| format!("a compressed buffer is broken: {error}"))?;
        if out.len() != length {
            return Err("a compressed buffer has another length than it says".to_string());
        }
        Ok(Buffer::from_vec(out))
    }
}

/// The first buffer of an array without what may follow its values or offsets: arrays are built from whole ones only.
fn exactly(buffer: Buffer, data_type: &DataType, rows: usize) -> Result<Buffer, String> {
    let bytes = match data_type {
        DataType::Boolean => rows.div_ceil(8),
        // an empty column may have left out its first offset
        DataType::Utf8 | DataType::Binary | DataType::LargeUtf8 | DataType::LargeBinary if rows == 0 => {
            return Ok(Buffer::from_slice_ref([0u64]));
        }
        DataType::Utf8 | DataType::Binary => (rows + 1) * size_of::<i32>(),
        DataType::LargeUtf8 | DataType::LargeBinary => (rows + 1) * size_of::<i64>(),
        DataType::Utf8View | DataType::BinaryView => rows * size_of::<u128>(),
        other => rows * other.primitive_width().ok_or_else(|| format!("{other} has no width"))?,
    };
    if buffer.len() < bytes {
        return Err(format!("{rows} values in a buffer of {} bytes", buffer.len()));
    }
    Ok(buffer.slice_with_length(0, bytes))
}

/// How long the text or the bytes of a row are; 0 where it has a fixed width.
fn text_bytes(array: &ArrayRef, row: usize) -> usize {
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value_length(row) as usize,
        DataType::LargeUtf8 => array.as_string::<i64>().value_length(row) as usize,
        DataType::Binary => array.as_binary::<i32>().value_length(row) as usize,
        DataType::LargeBinary => array.as_binary::<i64>().value_length(row) as usize,
        // the length is the lowest word of a view
        DataType::Utf8View => array.as_string_view().views()[row] as u32 as usize,
        _ => 0,
    }
}

/// The same values, null also where an object around them is.
fn with_nulls(array: ArrayRef, above: Option<&NullBuffer>) -> Result<ArrayRef, String> {
    let Some(above) = above.filter(|_| *array.data_type() != DataType::Null) else { return Ok(array) };
    let nulls = NullBuffer::union(Some(above), array.nulls());
    let data = array.to_data().into_builder().nulls(nulls).build().map_err(|error| error.to_string())?;
    Ok(make_array(data))
}

/// The type of a field's values, if a column can take them.
fn plain_type(field: &Field) -> Option<DataType> {
    let unit = |unit: IpcUnit| match unit {
        IpcUnit::SECOND => Some(TimeUnit::Second),
        IpcUnit::MILLISECOND => Some(TimeUnit::Millisecond),
        IpcUnit::MICROSECOND => Some(TimeUnit::Microsecond),
        IpcUnit::NANOSECOND => Some(TimeUnit::Nanosecond),
        _ => None,
    };
    match field.type_type() {
        Type::Null => Some(DataType::Null),
        Type::Bool => Some(DataType::Boolean),
        Type::Int => integer_type(&field.type_as_int()?),
        Type::FloatingPoint => match field.type_as_floating_point()?.precision() {
            Precision::HALF => Some(DataType::Float16),
            Precision::SINGLE => Some(DataType::Float32),
            Precision::DOUBLE => Some(DataType::Float64),
            _ => None,
        },
        Type::Decimal => {
            let decimal = field.type_as_decimal()?;
            let (precision, scale) = (u8::try_from(decimal.precision()).ok()?, i8::try_from(decimal.scale()).ok()?);
            match decimal.bitWidth() {
                128 if (1..=38).contains(&precision) => Some(DataType::Decimal128(precision, scale)),
                _ => None,
            }
        }
        Type::Utf8 => Some(DataType::Utf8),
        Type::LargeUtf8 => Some(DataType::LargeUtf8),
        Type::Utf8View => Some(DataType::Utf8View),
        Type::Binary => Some(DataType::Binary),
        Type::LargeBinary => Some(DataType::LargeBinary),
        Type::Timestamp => {
            let timestamp = field.type_as_timestamp()?;
            // the zone is only for showing: the number is UTC with one, and taken as UTC without
            Some(DataType::Timestamp(unit(timestamp.unit())?, None))
        }
        Type::Date => match field.type_as_date()?.unit() {
            DateUnit::DAY => Some(DataType::Date32),
            DateUnit::MILLISECOND => Some(DataType::Date64),
            _ => None,
        },
        _ => None,
    }
}

fn integer_type(int: &Int) -> Option<DataType> {
    match (int.bitWidth(), int.is_signed()) {
        (8, true) => Some(DataType::Int8),
        (16, true) => Some(DataType::Int16),
        (32, true) => Some(DataType::Int32),
        (64, true) => Some(DataType::Int64),
        (8, false) => Some(DataType::UInt8),
        (16, false) => Some(DataType::UInt16),
        (32, false) => Some(DataType::UInt32),
        (64, false) => Some(DataType::UInt64),
        _ => None,
    }
}
