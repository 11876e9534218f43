//! onceflow._native: conversion between Python and onceflow-core, nothing else.

mod aligner;
mod args;
mod arrow;
mod backend;
mod checkpoint;
mod columns;
mod coordinator;
mod copies;
mod copy_lines;
mod crc32;
mod csv_blocks;
mod csv_fields;
mod csv_rows;
mod csv_values;
mod deduplicator;
mod error;
mod iso_times;
mod kafka_partitions;
mod keys;
mod lines;
mod log;
mod log_args;
mod log_group;
mod log_maintained;
mod log_partition;
mod log_producer;
mod log_producer_info;
mod log_records;
mod log_topic;
mod moved;
mod plain;
mod table;
mod wakeup;
mod yardstick;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _native {
    use super::{Bound, PyModule, PyModuleMethods, PyResult};

    #[pymodule_export]
    use crate::aligner::{PyAlignerAction, PyBarrierAligner};
    #[pymodule_export]
    use crate::backend::{
        PyCheckpointInfo, PyRecovery, PyStateBackend, PyVerifyReport, py_key_group, py_key_groups,
        py_verify,
    };
    #[pymodule_export]
    use crate::checkpoint::{PyCheckpointStats, PyPendingCheckpoint, crash_point};
    #[pymodule_export]
    use crate::coordinator::{
        PyCheckpointCoordinator, PyCoordinatorEffect, PyRecoveryPlan, py_recovery_plan,
    };
    #[pymodule_export]
    use crate::copies::{py_flat_copy, py_plain_copy};
    #[pymodule_export]
    use crate::copy_lines::py_copy_lines;
    #[pymodule_export]
    use crate::crc32::py_crc32;
    #[pymodule_export]
    use crate::csv_blocks::PyCsvBlocks;
    #[pymodule_export]
    use crate::deduplicator::{PyDeduplicator, PyVerdicts};
    #[pymodule_export]
    use crate::kafka_partitions::py_kafka_partitions;
    #[pymodule_export]
    use crate::lines::{py_count_lines, py_split_lines};
    #[pymodule_export]
    use crate::log::PyLog;
    #[pymodule_export]
    use crate::log_group::{PyLogGroup, PyLogMember};
    #[pymodule_export]
    use crate::log_maintained::PyLogMaintained;
    #[pymodule_export]
    use crate::log_partition::{PyLogPartition, py_partition_of};
    #[pymodule_export]
    use crate::log_producer::{PyLogProducer, PyLogProducerPhase};
    #[pymodule_export]
    use crate::log_producer_info::PyLogProducerInfo;
    #[pymodule_export]
    use crate::log_records::PyLogRecords;
    #[pymodule_export]
    use crate::log_topic::PyLogTopic;
    #[pymodule_export]
    use crate::moved::py_any_moved;
    #[pymodule_export]
    use crate::plain::{py_is_plain, py_uncommon};
    #[pymodule_export]
    use crate::table::{PyRows, PyTable, PyTableSchema};
    #[pymodule_export]
    use crate::wakeup::PyWakeHandle;
    #[pymodule_export]
    use crate::yardstick::bare_update_loop;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("CRASH_POINTS", crate::checkpoint::CRASH_POINTS)
    }
}
