//! Arguments that are refused by name.
//!
//! PyO3 converts arguments before the function runs, and what it raises for a number that is too
//! large is an `OverflowError` that names nothing. So the arguments of functions arrive as [`Arg`],
//! which keeps what was wrong until the function says what it is the argument of.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString};

use crate::error::invalid_argument;

/// See the module.
pub(crate) struct Arg<T>(Result<T, String>);

impl<T> Arg<T> {
    /// A default.
    pub(crate) const fn of(value: T) -> Self {
        Self(Ok(value))
    }

    /// The value of the argument of this name.
    pub(crate) fn named(self, name: &str) -> PyResult<T> {
        self.0.map_err(|reason| invalid_argument(format!("{name} is {reason}")))
    }
}

/// The value of an argument that may be None.
pub(crate) fn optional<T>(name: &str, arg: Option<Arg<T>>) -> PyResult<Option<T>> {
    arg.map(|arg| arg.named(name)).transpose()
}

/// A value that is no argument of its own, such as a key of a dict.
pub(crate) fn read<T: Readable>(name: &str, value: &Bound<'_, PyAny>) -> PyResult<T> {
    Arg(T::read(value)).named(name)
}

/// Any mapping as a dict.
pub(crate) fn as_dict<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    if let Ok(dict) = value.cast::<PyDict>() {
        return Ok(dict.clone());
    }
    let dict = value.py().get_type::<PyDict>().call1((value,));
    let dict =
        dict.map_err(|_| invalid_argument(format!("{name} is {}", given(value, "a dict"))))?;
    Ok(dict.cast_into()?)
}

/// A type that can be an argument.
pub(crate) trait Readable: Sized {
    /// What was given instead, if it is another one.
    fn read(value: &Bound<'_, PyAny>) -> Result<Self, String>;
}

impl<'py, T: Readable> FromPyObject<'_, 'py> for Arg<T> {
    type Error = Infallible;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> Result<Self, Infallible> {
        Ok(Self(T::read(&value)))
    }
}

/// What was given, so short that it can be part of a sentence.
fn given(value: &Bound<'_, PyAny>, needed: &str) -> String {
    const LONGEST: usize = 60;
    let kind = value.get_type().name().map_or_else(|_| "value".into(), |name| name.to_string());
    let text = value.repr().map_or_else(|_| String::new(), |text| text.to_string());
    let text = if text.is_empty() || text.chars().count() > LONGEST {
        String::new()
    } else {
        format!(" ({text})")
    };
    format!("of type {kind}{text}; give {needed}")
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Readable for $type {
            fn read(value: &Bound<'_, PyAny>) -> Result<Self, String> {
                // Nearly all are, and those of a whole batch come through here.
                if value.is_exact_instance_of::<PyInt>()
                    && let Ok(number) = value.extract()
                {
                    return Ok(number);
                }
                let range = || format!("an integer from {} to {}", Self::MIN, Self::MAX);
                if value.is_instance_of::<PyBool>() {
                    return Err(given(value, &range()));
                }
                // What a float or a str lacks and numpy's integers have.
                let index = match value.cast::<PyInt>() {
                    Ok(number) => number.as_any().clone(),
                    Err(_) => value
                        .call_method0("__index__")
                        .map_err(|_| given(value, &range()))?,
                };
                index.extract().map_err(|_| match index.repr() {
                    Ok(text) if text.to_string().len() <= 60 => {
                        format!("{text}; give {}", range())
                    }
                    _ => format!("too large; give {}", range()),
                })
            }
        }
    )*};
}

integers!(u16, u32, u64, i32, i64, usize);

impl Readable for f64 {
    fn read(value: &Bound<'_, PyAny>) -> Result<Self, String> {
        if let Ok(number) = value.cast_exact::<PyFloat>() {
            return Ok(number.value());
        }
        if value.is_instance_of::<PyBool>() {
            return Err(given(value, "a number"));
        }
        value.extract().map_err(|_| given(value, "a number that a float can hold"))
    }
}

impl Readable for bool {
    fn read(value: &Bound<'_, PyAny>) -> Result<Self, String> {
        value.extract().map_err(|_| given(value, "True or False"))
    }
}

impl Readable for String {
    fn read(value: &Bound<'_, PyAny>) -> Result<Self, String> {
        let text = value.cast::<PyString>().map_err(|_| given(value, "a str"))?;
        let text = text.to_str().map(str::to_owned);
        text.map_err(|_| given(value, "a str without lone surrogates"))
    }
}

impl Readable for Vec<u8> {
    fn read(value: &Bound<'_, PyAny>) -> Result<Self, String> {
        let bytes = value.cast::<PyBytes>().map_err(|_| given(value, "bytes"))?;
        Ok(bytes.as_bytes().to_vec())
    }
}

/// Bytes, in one piece or in several, as they lie in Python's memory.
pub(crate) struct Pieces(pub(crate) Vec<PyBackedBytes>);

impl Readable for Pieces {
    fn read(value: &Bound<'_, PyAny>) -> Result<Self, String> {
        let piece = |value: &Bound<'_, PyAny>| {
            let bytes = value.cast::<PyBytes>().map_err(|_| given(value, "bytes"))?;
            Ok(PyBackedBytes::from(bytes.clone()))
        };
        match value.cast::<PyList>() {
            Ok(list) => list.iter().map(|value| piece(&value)).collect::<Result<_, _>>().map(Self),
            Err(_) => Ok(Self(vec![piece(value)?])),
        }
    }
}

impl Readable for PathBuf {
    fn read(value: &Bound<'_, PyAny>) -> Result<Self, String> {
        value.extract().map_err(|_| given(value, "a str or a path"))
    }
}

impl<T: Readable> Readable for Option<T> {
    fn read(value: &Bound<'_, PyAny>) -> Result<Self, String> {
        if value.is_none() { Ok(None) } else { T::read(value).map(Some) }
    }
}

impl<T: Readable, U: Readable> Readable for (T, U) {
    fn read(value: &Bound<'_, PyAny>) -> Result<Self, String> {
        let (first, second): (Bound<'_, PyAny>, Bound<'_, PyAny>) =
            value.extract().map_err(|_| given(value, "a pair"))?;
        Ok((T::read(&first)?, U::read(&second)?))
    }
}

/// A list of anything but bytes, which are a value of their own.
pub(crate) struct List<T>(pub(crate) Vec<T>);

impl<T: Readable> Readable for List<T> {
    fn read(value: &Bound<'_, PyAny>) -> Result<Self, String> {
        let items: Vec<Bound<'_, PyAny>> = value.extract().map_err(|_| given(value, "a list"))?;
        items.iter().map(T::read).collect::<Result<_, _>>().map(Self)
    }
}

impl<T: Readable> Readable for BTreeMap<String, T> {
    fn read(value: &Bound<'_, PyAny>) -> Result<Self, String> {
        let dict = value.cast::<PyDict>().map_err(|_| given(value, "a dict"))?;
        dict.iter().map(|(name, item)| Ok((String::read(&name)?, T::read(&item)?))).collect()
    }
}
