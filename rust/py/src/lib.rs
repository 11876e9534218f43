//! onceflow._native: conversion between Python and onceflow-core, nothing else.

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _native {}
