//! onceflow._native: conversion between Python and onceflow-core, nothing else.

mod aligner;
mod coordinator;
mod deduplicator;
mod error;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use crate::aligner::{PyAlignerAction, PyBarrierAligner};
    #[pymodule_export]
    use crate::coordinator::{
        PyCheckpointCoordinator, PyCoordinatorEffect, PyRecoveryPlan, py_recovery_plan,
    };
    #[pymodule_export]
    use crate::deduplicator::{PyDeduplicator, PyVerdicts};
}
