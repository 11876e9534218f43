//! What the calls of a log take: settings by name, strategies, times, parts of records.

use std::time::Duration;

use onceflow_core::log::{CleanupPolicy, Strategy, TopicSettings, Write};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::args::{Arg, read};
use crate::error::invalid_argument;
use crate::log_records::Input;

pub(crate) fn cleanup_policy(name: &str) -> PyResult<CleanupPolicy> {
    match name {
        "delete" => Ok(CleanupPolicy::Delete),
        "compact" => Ok(CleanupPolicy::Compact),
        other => {
            Err(invalid_argument(format!("cleanup_policy is {other:?}: \"delete\" or \"compact\"")))
        }
    }
}

/// Settings of a topic, with those that are given in their place.
pub(crate) fn changed(
    call: &str,
    mut settings: TopicSettings,
    changes: Option<&Bound<'_, PyDict>>,
) -> PyResult<TopicSettings> {
    for (name, value) in changes.into_iter().flatten() {
        let name: String = name.extract()?;
        set(call, &mut settings, &name, &value)?;
    }
    Ok(settings)
}

pub(crate) fn set(
    call: &str,
    settings: &mut TopicSettings,
    name: &str,
    value: &Bound<'_, PyAny>,
) -> PyResult<()> {
    match name {
        "partitions" => settings.partitions = read(name, value)?,
        "retention_ms" => settings.retention_ms = read(name, value)?,
        "retention_bytes" => settings.retention_bytes = read(name, value)?,
        "cleanup_policy" => {
            settings.cleanup_policy = cleanup_policy(&read::<String>(name, value)?)?
        }
        "delete_retention_ms" => settings.delete_retention_ms = read(name, value)?,
        "max_record_bytes" => settings.max_record_bytes = read(name, value)?,
        _ => {
            let text = format!("{call}() got an unexpected keyword argument {name:?}");
            return Err(PyTypeError::new_err(text));
        }
    }
    Ok(())
}

pub(crate) fn strategy(name: &str) -> PyResult<Strategy> {
    match name {
        "sticky" => Ok(Strategy::Sticky),
        "range" => Ok(Strategy::Range),
        "roundrobin" => Ok(Strategy::RoundRobin),
        other => Err(invalid_argument(format!(
            "the assignment strategy is {other:?}: \"sticky\", \"range\" or \"roundrobin\""
        ))),
    }
}

pub(crate) fn seconds(what: &str, seconds: f64) -> PyResult<Duration> {
    if seconds == f64::INFINITY {
        return Ok(Duration::MAX);
    }
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| invalid_argument(format!("{what} is {seconds}: give 0 or more seconds")))
}

/// A time in milliseconds.
pub(crate) fn millis(what: &str, seconds: f64) -> PyResult<i64> {
    // As far as f64 counts milliseconds.
    const MOST: f64 = (1_u64 << 53) as f64;
    let millis = (seconds * 1000.0).floor();
    if millis.abs() <= MOST {
        return Ok(millis as i64);
    }
    Err(invalid_argument(format!("{what} is {seconds}, which is not a time in seconds")))
}

/// A part of a request of the producers' protocol.
#[derive(FromPyObject)]
pub(crate) struct PartArgument<'py>(Arg<String>, Arg<u32>, Arg<i32>, Bound<'py, PyAny>);

/// The inputs of parts, which their writes borrow.
pub(crate) struct Parts<'py> {
    inputs: Vec<(String, u32, i32, Input<'py>)>,
}

impl<'py> Parts<'py> {
    pub(crate) fn read(parts: Vec<PartArgument<'py>>, now_ms: i64) -> PyResult<Self> {
        let read = |PartArgument(topic, partition, first_sequence, values)| {
            let (topic, partition) = (topic.named("topic")?, partition.named("partition")?);
            let input = Input::read(Some(&values), None, None, None, now_ms)?;
            Ok((topic, partition, first_sequence.named("first_sequence")?, input))
        };
        Ok(Self { inputs: parts.into_iter().map(read).collect::<PyResult<_>>()? })
    }

    pub(crate) fn writes(&self) -> PyResult<Vec<Write<'_>>> {
        let mut writes = Vec::with_capacity(self.inputs.len());
        for (topic, partition, first_sequence, input) in &self.inputs {
            writes.push(Write {
                topic,
                partition: *partition,
                records: input.records()?,
                first_sequence: *first_sequence,
            });
        }
        Ok(writes)
    }
}
