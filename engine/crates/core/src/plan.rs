//! The job, compiled: which columns are read, where each value lies in a key's slot, what runs when.

use std::sync::Arc;

use crate::accumulate::{self, Group, STAT_WORDS, Statistic};
use crate::config::{
    AggregateFunction, Delivery, FROM_EVENTS, FieldConfig, FieldType, JobConfig, SinkConfig, TimeUnit, UdfStage, WindowConfig,
};
use crate::expr::{CompiledExpr, DataKind, Expr};
use crate::{Error, Result};

/// Name of the built-in sink for rows that could not be processed; no user's sink can have it.
pub const DEAD_LETTERS: &str = "dead-letters";

/// Columns of a closed window's row before the aggregates.
pub const WINDOW_COLUMNS: [(&str, FieldType); 3] =
    [("key", FieldType::String), ("window_start", FieldType::Int64), ("window_end", FieldType::Int64)];

/// Largest window: a time less the start of a window must not overflow.
const MAX_WINDOW_US: i64 = crate::event_time::LATEST_US;

/// Most aggregates of a window: each has up to ten words of its pane, which are numbered by `u16`.
const MAX_AGGREGATES: usize = 4096;

/// A job ready to run. Event columns are numbered: the schema's fields, the time, outputs of `on: event` UDFs.
#[derive(Debug)]
pub struct Plan {
    pub config: JobConfig,
    pub event_columns: Vec<FieldConfig>,
    pub time_column: usize,
    /// Event columns that have running statistics, in the order of their words.
    pub numeric: Vec<usize>,
    pub filter: Option<CompiledExpr>,
    /// Aggregate arguments that are not plain columns, over event columns.
    pub computed: Vec<CompiledExpr>,
    pub windows: Vec<WindowPlan>,
    /// Statistics that event UDFs read: index into `numeric`, and which.
    pub statistic_inputs: Vec<(usize, Statistic)>,
    pub event_udfs: Vec<EventUdfPlan>,
    pub sinks: Vec<SinkPlan>,
    /// Event columns that must be gathered for a worker's rows before anything runs.
    pub gathered: Vec<bool>,
    pub state_words: usize,
    /// Equal for two jobs whose stored slots mean the same.
    pub layout_fingerprint: u64,
    pub time_output: TimeOutput,
    pub limits: Limits,
}

/// Bounds of one shard that are not the user's; the simulation makes them small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// One outbox holds about this many bytes; above it the shard takes no rows (I6: full means wait).
    pub outbox_bytes: usize,
    /// A shard may always hold this many keys, whatever `state.memory` says.
    pub min_hot_keys: usize,
    /// Closed rows of this many bytes ask for a commit before its time.
    pub pending_history_bytes: usize,
    /// A commit of most keys may write all of them where a shard has this many.
    pub min_whole_keys: usize,
    /// A block of such a commit ends with the key that makes it longer than so many bytes.
    pub block_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            outbox_bytes: crate::outbox::MAX_OUTBOX_BYTES,
            min_hot_keys: crate::shard::MIN_HOT_KEYS,
            pending_history_bytes: crate::shard::MAX_PENDING_HISTORY_BYTES,
            min_whole_keys: crate::shard::MIN_WHOLE_KEYS,
            block_bytes: crate::shard::BLOCK_BYTES,
        }
    }
}

/// How an event's time is written into its row: as it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeOutput {
    /// A number; this many microseconds a unit (0: nanoseconds).
    Number(TimeUnit),
    Rfc3339,
}

#[derive(Debug)]
pub struct WindowPlan {
    pub name: String,
    /// Stable id of the window's records in the store.
    pub id: u32,
    pub size_us: i64,
    /// State word of the first pane's start; its accumulators follow, then those of the second.
    pub pane_at: usize,
    pub pane_words: usize,
    /// Panes that a slot has room for: with disorder the windows before and behind a boundary are open side by side.
    pub panes: usize,
    pub groups: Vec<(Argument, Group)>,
    pub results: Vec<ResultPlan>,
    pub udfs: Vec<WindowUdfPlan>,
    /// key, window_start, window_end, aggregates, outputs of the window's UDFs.
    pub columns: Vec<FieldConfig>,
    /// Sinks that take this window's rows.
    pub sinks: Vec<usize>,
}

impl WindowPlan {
    /// State word of the pane that a start belongs to.
    #[inline]
    pub fn pane_of(&self, start_us: i64) -> usize {
        let turn = start_us.div_euclid(self.size_us).rem_euclid(self.panes as i64) as usize;
        self.pane_at + turn * (1 + self.pane_words)
    }

    /// State words of all panes that a slot has room for.
    pub fn pane_places(&self) -> impl Iterator<Item = usize> {
        (0..self.panes).map(|pane| self.pane_at + pane * (1 + self.pane_words))
    }
}

/// What a group of accumulators reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// Nothing: rows are counted.
    Rows,
    /// An event column.
    Column(usize),
    /// A computed column.
    Computed(usize),
}

#[derive(Debug, Clone)]
pub struct ResultPlan {
    pub name: String,
    pub function: AggregateFunction,
    pub group: usize,
    pub data_type: FieldType,
}

/// A UDF that runs on events.
#[derive(Debug)]
pub struct EventUdfPlan {
    /// Its number among all UDFs of the job.
    pub index: usize,
    pub name: String,
    pub inputs: Vec<EventInput>,
    /// First of its outputs among the event columns.
    pub first_output: usize,
    pub outputs: Vec<FieldConfig>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventInput {
    Column(usize),
    /// Number among [`Plan::statistic_inputs`].
    Statistic(usize),
}

/// A UDF that runs on the rows of a closing window.
#[derive(Debug)]
pub struct WindowUdfPlan {
    pub index: usize,
    pub name: String,
    /// Numbers among the window's columns.
    pub inputs: Vec<usize>,
    pub first_output: usize,
    pub outputs: Vec<FieldConfig>,
}

#[derive(Debug)]
pub struct SinkPlan {
    pub name: String,
    pub from: SinkFrom,
    pub filter: Option<CompiledExpr>,
    pub mode: SinkMode,
    pub delivery: Delivery,
    pub max_batch_rows: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkFrom {
    Events,
    Window(usize),
    DeadLetters,
}

/// How rows leave (I8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkMode {
    /// Streamed into a segment that a commit makes visible.
    Segments,
    /// Sent as numbered batches that stay in the outbox until they are confirmed.
    Messages,
    /// Written at once and forgotten.
    Stream,
}

impl Plan {
    /// Compiles a job. Errors name the part of the job; they are the user's to mend.
    pub fn compile(config: JobConfig) -> Result<Arc<Plan>> {
        Plan::compile_with(config, Limits::default())
    }

    /// As [`Plan::compile`] with other bounds.
    pub fn compile_with(config: JobConfig, limits: Limits) -> Result<Arc<Plan>> {
        let mut event_columns = config.schema.columns();
        let time_column = event_columns.len();
        event_columns.push(FieldConfig { name: config.schema.time.field.clone(), data_type: FieldType::Int64 });
        let numeric = (0..time_column).filter(|column| event_columns[*column].data_type.is_numeric()).collect::<Vec<_>>();
        let filter = compile_filter(&config.filter, &kinds(&event_columns), "spec.where")?;
        let mut statistic_inputs = Vec::new();
        let event_udfs = compile_event_udfs(&config, &mut event_columns, time_column, &numeric, &mut statistic_inputs)?;
        let mut computed = Vec::new();
        let mut state_words = 1 + numeric.len() * STAT_WORDS;
        let mut windows = Vec::new();
        for window in &config.windows {
            windows.push(compile_window(&config, window, &event_columns, &mut computed, &mut state_words)?);
        }
        let sinks = compile_sinks(&config, &event_columns, &mut windows)?;
        let gathered = gathered_columns(&event_columns, time_column, &numeric, &filter, &computed, &windows, &event_udfs, &sinks);
        let layout_fingerprint = layout_fingerprint(&config, &windows);
        let time_output = match (config.schema.time.unit, &config.schema.time.format) {
            (Some(unit), _) => TimeOutput::Number(unit),
            (None, _) => TimeOutput::Rfc3339,
        };
        Ok(Arc::new(Plan {
            event_columns,
            time_column,
            numeric,
            filter,
            computed,
            windows,
            statistic_inputs,
            event_udfs,
            sinks,
            gathered,
            state_words,
            layout_fingerprint,
            time_output,
            limits,
            config,
        }))
    }

    /// Number of the built-in dead-letter sink.
    pub fn dead_letter_sink(&self) -> usize {
        self.sinks.len() - 1
    }

    /// State words before the panes: the row count and the statistics.
    pub fn base_words(&self) -> usize {
        1 + self.numeric.len() * STAT_WORDS
    }

    /// State words of the statistics of the n-th numeric column.
    #[inline]
    pub fn statistics_at(&self, numeric: usize) -> usize {
        1 + numeric * STAT_WORDS
    }
}

fn kinds(columns: &[FieldConfig]) -> Vec<(String, DataKind)> {
    columns.iter().map(|column| (column.name.clone(), DataKind::from(column.data_type))).collect()
}

fn compile_filter(filter: &Option<Expr>, columns: &[(String, DataKind)], place: &str) -> Result<Option<CompiledExpr>> {
    let Some(expression) = filter else { return Ok(None) };
    let compiled = CompiledExpr::compile_condition(expression, columns).map_err(|error| error.context(place))?;
    Ok(Some(compiled))
}

fn compile_event_udfs(
    config: &JobConfig,
    event_columns: &mut Vec<FieldConfig>,
    time_column: usize,
    numeric: &[usize],
    statistic_inputs: &mut Vec<(usize, Statistic)>,
) -> Result<Vec<EventUdfPlan>> {
    let mut plans = Vec::new();
    for (index, udf) in config.udfs.iter().enumerate().filter(|(_, udf)| udf.on == UdfStage::Event) {
        let mut inputs = Vec::new();
        for input in &udf.inputs {
            inputs.push(
                event_input(input, &event_columns[..=time_column], numeric, statistic_inputs)
                    .ok_or_else(|| Error::user(format!("udf {}: there is no input {input}", udf.name)))?,
            );
        }
        let first_output = event_columns.len();
        event_columns.extend(udf.outputs.iter().cloned());
        plans.push(EventUdfPlan { index, name: udf.name.clone(), inputs, first_output, outputs: udf.outputs.clone() });
    }
    Ok(plans)
}

fn event_input(
    input: &str,
    columns: &[FieldConfig],
    numeric: &[usize],
    statistic_inputs: &mut Vec<(usize, Statistic)>,
) -> Option<EventInput> {
    if let Some(column) = columns.iter().position(|column| column.name == input) {
        return Some(EventInput::Column(column));
    }
    let (field, statistic) = input.strip_prefix("stats.")?.rsplit_once('.')?;
    let statistic = Statistic::from_name(statistic)?;
    let numeric = numeric.iter().position(|column| columns[*column].name == field)?;
    let known = statistic_inputs.iter().position(|known| *known == (numeric, statistic));
    Some(EventInput::Statistic(known.unwrap_or_else(|| {
        statistic_inputs.push((numeric, statistic));
        statistic_inputs.len() - 1
    })))
}

fn compile_window(
    config: &JobConfig,
    window: &WindowConfig,
    event_columns: &[FieldConfig],
    computed: &mut Vec<CompiledExpr>,
    state_words: &mut usize,
) -> Result<WindowPlan> {
    if window.tumbling.size_us <= 0 {
        return Err(Error::user(format!("window {}: its size must be above zero", window.name)));
    }
    if window.tumbling.size_us > MAX_WINDOW_US {
        return Err(Error::user(format!("window {}: its size must be at most {MAX_WINDOW_US} microseconds", window.name)));
    }
    if window.aggregates.len() > MAX_AGGREGATES {
        let got = window.aggregates.len();
        return Err(Error::user(format!("window {}: at most {MAX_AGGREGATES} aggregates (got {got})", window.name)));
    }
    // Arguments in the order of their first use, with the words that all functions over them need together.
    let mut arguments: Vec<(&Option<Expr>, u8)> = Vec::new();
    let mut result_groups = Vec::new();
    for aggregate in &window.aggregates {
        let need = accumulate::needs(aggregate.function);
        match arguments.iter().position(|(argument, _)| **argument == aggregate.argument) {
            Some(group) => {
                arguments[group].1 |= need;
                result_groups.push(group);
            }
            None => {
                arguments.push((&aggregate.argument, need));
                result_groups.push(arguments.len() - 1);
            }
        }
    }
    let mut groups = Vec::new();
    let mut types = Vec::new();
    let mut next = 0u16;
    for (argument, mask) in arguments {
        let (place, data_type) = compile_argument(window, argument, event_columns, computed)?;
        if mask != 0 && !data_type.is_none_or(FieldType::is_numeric) {
            return Err(Error::user(format!("window {}: only count() takes values that are not numbers", window.name)));
        }
        let (group, behind) = Group::lay_out(mask, data_type == Some(FieldType::Int64), next);
        next = behind;
        groups.push((place, group));
        types.push(data_type);
    }
    let results: Vec<ResultPlan> = std::iter::zip(&window.aggregates, result_groups)
        .map(|(aggregate, group)| ResultPlan {
            name: aggregate.name.clone(),
            function: aggregate.function,
            group,
            data_type: accumulate::result_type(aggregate.function, types[group]),
        })
        .collect();
    let pane_at = *state_words;
    let panes = if config.time.max_out_of_orderness_us > 0 { 2 } else { 1 };
    *state_words += panes * (1 + usize::from(next));
    let (columns, udfs) = compile_window_udfs(config, window, &results)?;
    Ok(WindowPlan {
        name: window.name.clone(),
        id: crate::batch::hash_key(window.name.as_bytes()) as u32,
        size_us: window.tumbling.size_us,
        pane_at,
        pane_words: usize::from(next),
        panes,
        groups,
        results,
        udfs,
        columns,
        sinks: Vec::new(),
    })
}

fn compile_argument(
    window: &WindowConfig,
    argument: &Option<Expr>,
    event_columns: &[FieldConfig],
    computed: &mut Vec<CompiledExpr>,
) -> Result<(Argument, Option<FieldType>)> {
    let Some(expression) = argument else { return Ok((Argument::Rows, None)) };
    if let Expr::Column { name } = expression
        && let Some(column) = event_columns.iter().position(|column| column.name == *name)
    {
        return Ok((Argument::Column(column), Some(event_columns[column].data_type)));
    }
    let compiled = CompiledExpr::compile(expression, &kinds(event_columns))
        .map_err(|error| error.context(format!("window {}", window.name)))?;
    let data_type = compiled.kind().into();
    computed.push(compiled);
    Ok((Argument::Computed(computed.len() - 1), Some(data_type)))
}

fn compile_window_udfs(
    config: &JobConfig,
    window: &WindowConfig,
    results: &[ResultPlan],
) -> Result<(Vec<FieldConfig>, Vec<WindowUdfPlan>)> {
    let mut columns: Vec<FieldConfig> =
        WINDOW_COLUMNS.iter().map(|(name, data_type)| FieldConfig { name: (*name).to_owned(), data_type: *data_type }).collect();
    columns.extend(results.iter().map(|result| FieldConfig { name: result.name.clone(), data_type: result.data_type }));
    let readable = columns.len();
    let mut udfs = Vec::new();
    for (index, udf) in config.udfs.iter().enumerate() {
        if udf.on != UdfStage::Window || udf.window.as_deref() != Some(window.name.as_str()) {
            continue;
        }
        let mut inputs = Vec::new();
        for input in &udf.inputs {
            let column = columns[..readable].iter().position(|column| column.name == *input);
            inputs.push(column.ok_or_else(|| Error::user(format!("udf {}: there is no input {input}", udf.name)))?);
        }
        let first_output = columns.len();
        columns.extend(udf.outputs.iter().cloned());
        udfs.push(WindowUdfPlan { index, name: udf.name.clone(), inputs, first_output, outputs: udf.outputs.clone() });
    }
    Ok((columns, udfs))
}

fn compile_sinks(config: &JobConfig, event_columns: &[FieldConfig], windows: &mut [WindowPlan]) -> Result<Vec<SinkPlan>> {
    let mut sinks = Vec::new();
    for (index, sink) in config.sinks.iter().enumerate() {
        let place = format!("sink {}", sink.name);
        let (from, columns) = if sink.from == FROM_EVENTS {
            (SinkFrom::Events, kinds(event_columns))
        } else {
            let window = windows.iter().position(|window| window.name == sink.from);
            let window = window.ok_or_else(|| Error::user(format!("{place}: there is no window {}", sink.from)))?;
            windows[window].sinks.push(index);
            (SinkFrom::Window(window), kinds(&windows[window].columns))
        };
        let filter = compile_filter(&sink.filter, &columns, &place)?;
        let (mode, max_batch_rows) = sink_mode(sink)?;
        sinks.push(SinkPlan { name: sink.name.clone(), from, filter, mode, delivery: sink.delivery, max_batch_rows });
    }
    sinks.push(SinkPlan {
        name: DEAD_LETTERS.to_owned(),
        from: SinkFrom::DeadLetters,
        filter: None,
        mode: SinkMode::Segments,
        delivery: Delivery::ExactlyOnce,
        max_batch_rows: u32::MAX,
    });
    Ok(sinks)
}

fn sink_mode(sink: &SinkConfig) -> Result<(SinkMode, u32)> {
    let refused = |why: &str| Err(Error::user(format!("sink {}: {why}", sink.name)));
    let messages = [
        sink.http.as_ref().map(|http| http.max_batch_rows),
        sink.kafka.as_ref().map(|kafka| kafka.max_batch_rows),
        sink.nats.as_ref().map(|nats| nats.max_batch_rows),
        sink.postgres.as_ref().map(|postgres| postgres.max_batch_rows),
        sink.python.as_ref().map(|python| python.max_batch_rows),
    ];
    let mut messages = messages.into_iter().flatten();
    let exactly_once = sink.delivery == Delivery::ExactlyOnce;
    match (&sink.file, messages.next(), messages.next(), &sink.stdout) {
        (Some(_), None, None, None) => Ok((SinkMode::Segments, u32::MAX)),
        (None, Some(_), None, None) if exactly_once && sink.python.as_ref().is_some_and(|python| !python.idempotent) => {
            refused("a connector that is not idempotent can't be exactly-once; set idempotent: true or delivery: at-least-once")
        }
        (None, Some(max_batch_rows), None, None) => Ok((SinkMode::Messages, max_batch_rows.max(1))),
        (None, None, None, Some(_)) if exactly_once => refused("stdout can't be exactly-once; set delivery: at-least-once"),
        (None, None, None, Some(_)) => Ok((SinkMode::Stream, u32::MAX)),
        _ => refused("exactly one of file, http, kafka, nats, postgres, python and stdout must be set"),
    }
}

#[expect(clippy::too_many_arguments, reason = "every stage adds what it reads")]
fn gathered_columns(
    event_columns: &[FieldConfig],
    time_column: usize,
    numeric: &[usize],
    filter: &Option<CompiledExpr>,
    computed: &[CompiledExpr],
    windows: &[WindowPlan],
    udfs: &[EventUdfPlan],
    sinks: &[SinkPlan],
) -> Vec<bool> {
    let mut gathered = vec![false; event_columns.len()];
    let sink_filters = sinks.iter().filter(|sink| sink.from == SinkFrom::Events).filter_map(|sink| sink.filter.as_ref());
    for expression in filter.iter().chain(computed).chain(sink_filters) {
        for column in expression.required_columns() {
            gathered[*column] = true;
        }
    }
    for column in numeric {
        gathered[*column] = true;
    }
    for (argument, _) in windows.iter().flat_map(|window| &window.groups) {
        if let Argument::Column(column) = argument {
            gathered[*column] = true;
        }
    }
    for input in udfs.iter().flat_map(|udf| &udf.inputs) {
        if let EventInput::Column(column) = input {
            gathered[*column] = true;
        }
    }
    // Outputs of UDFs are made, not gathered.
    for column in &mut gathered[time_column + 1..] {
        *column = false;
    }
    gathered
}

fn layout_fingerprint(config: &JobConfig, windows: &[WindowPlan]) -> u64 {
    let mut text = format!("slots/1 {}", config.shards);
    for field in config.schema.fields.iter().filter(|field| field.data_type.is_numeric()) {
        text.push_str(&format!(" {}:{:?}", field.name, field.data_type));
    }
    for (window, plan) in std::iter::zip(&config.windows, windows) {
        text.push_str(&format!(" {}/{}", window.name, window.tumbling.size_us));
        for (result, aggregate) in std::iter::zip(&plan.results, &window.aggregates) {
            text.push_str(&format!(" {:?} {:?}", plan.groups[result.group].1, aggregate.argument));
        }
    }
    crate::batch::hash_key(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AggregateConfig, TumblingConfig};

    fn minimal(change: impl FnOnce(&mut JobConfig)) -> Result<Arc<Plan>> {
        let mut config = JobConfig::from_json(include_str!("../../../testdata/normalised/minimal.json")).expect("a valid job");
        change(&mut config);
        Plan::compile(config)
    }

    #[test]
    fn windows_beyond_what_a_pane_can_hold_are_refused() {
        let window = |size_us: i64, count: usize| {
            let one = |number: usize| AggregateConfig {
                name: format!("a{number}"),
                function: AggregateFunction::Last,
                argument: Some(Expr::Literal { value: number.into() }),
            };
            let tumbling = TumblingConfig { size_us };
            vec![WindowConfig { name: "w".to_owned(), tumbling, aggregates: (0..count).map(one).collect() }]
        };
        let compile = |size_us, count| minimal(|job| (job.sinks.clear(), job.windows = window(size_us, count)).1);
        assert!(compile(MAX_WINDOW_US, MAX_AGGREGATES).is_ok());
        assert!(compile(1, MAX_AGGREGATES + 1).expect_err("too many").message().contains("at most 4096 aggregates"));
        assert!(compile(MAX_WINDOW_US + 1, 1).expect_err("too long").message().contains("its size must be at most"));
        assert!(compile(0, 1).expect_err("too short").message().contains("above zero"));
    }
}
