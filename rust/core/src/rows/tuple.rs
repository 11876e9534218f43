//! Tuple keys as one byte string: self-delimiting, and ordered as the tuples are.
//!
//! | element    | bytes                                                                         |
//! |------------|-------------------------------------------------------------------------------|
//! | i64        | 8, big-endian, sign bit flipped                                               |
//! | u64        | 8, big-endian                                                                 |
//! | bytes, str | the bytes, each 0x00 followed by 0xFF; then 0x00 0x00                         |

use super::{KeyType, KeysBuf};
use crate::{Error, ErrorKind, Result};

const SIGN: u64 = 1 << 63;

/// One element of a tuple key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum KeyPart<'a> {
    I64(i64),
    U64(u64),
    Bytes(std::borrow::Cow<'a, [u8]>),
    Str(std::borrow::Cow<'a, str>),
}

impl KeysBuf {
    /// Appends the encoding of a tuple.
    pub fn encode_tuple(parts: &[KeyPart<'_>], out: &mut Vec<u8>) {
        for part in parts {
            match part {
                KeyPart::I64(value) => {
                    out.extend_from_slice(&(*value as u64 ^ SIGN).to_be_bytes());
                }
                KeyPart::U64(value) => out.extend_from_slice(&value.to_be_bytes()),
                KeyPart::Bytes(bytes) => escape(bytes, out),
                KeyPart::Str(text) => escape(text.as_bytes(), out),
            }
        }
    }

    /// The elements of an encoded tuple; errors with `TypeMismatch` if it is not one of `types`.
    pub fn decode_tuple<'a>(types: &[KeyType], bytes: &'a [u8]) -> Result<Vec<KeyPart<'a>>> {
        let mut rest = bytes;
        let mut parts = Vec::with_capacity(types.len());
        for key_type in types {
            parts.push(match key_type {
                KeyType::I64 => KeyPart::I64((word(&mut rest)? ^ SIGN) as i64),
                KeyType::U64 => KeyPart::U64(word(&mut rest)?),
                KeyType::Bytes => KeyPart::Bytes(unescape(&mut rest)?),
                KeyType::Str => KeyPart::Str(match unescape(&mut rest)? {
                    std::borrow::Cow::Borrowed(bytes) => {
                        std::str::from_utf8(bytes).map_err(|_| not_utf8())?.into()
                    }
                    std::borrow::Cow::Owned(bytes) => {
                        String::from_utf8(bytes).map_err(|_| not_utf8())?.into()
                    }
                }),
                KeyType::Tuple(_) => return Err(broken("has a tuple inside")),
            });
        }
        if rest.is_empty() { Ok(parts) } else { Err(broken("is too long")) }
    }
}

/// Errors unless `bytes` is a tuple of these types.
pub(crate) fn check(types: &[KeyType], bytes: &[u8]) -> Result<()> {
    KeysBuf::decode_tuple(types, bytes).map(drop)
}

/// The first element of a checked tuple that starts with an i64.
#[inline]
pub(crate) fn first_i64(bytes: &[u8]) -> i64 {
    let mut head = [0; 8];
    let len = bytes.len().min(8);
    head[..len].copy_from_slice(&bytes[..len]);
    (u64::from_be_bytes(head) ^ SIGN) as i64
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + 2);
    for &byte in bytes {
        out.push(byte);
        if byte == 0 {
            out.push(0xFF);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

fn word(rest: &mut &[u8]) -> Result<u64> {
    let (head, tail) = rest.split_first_chunk::<8>().ok_or_else(|| broken("is too short"))?;
    *rest = tail;
    Ok(u64::from_be_bytes(*head))
}

fn unescape<'a>(rest: &mut &'a [u8]) -> Result<std::borrow::Cow<'a, [u8]>> {
    let all = *rest;
    let mut owned: Option<Vec<u8>> = None;
    let mut start = 0;
    loop {
        let zero = all[start..]
            .iter()
            .position(|byte| *byte == 0)
            .map(|offset| start + offset)
            .ok_or_else(|| broken("is too short"))?;
        match all.get(zero + 1) {
            Some(0) => {
                *rest = &all[zero + 2..];
                return Ok(match owned {
                    None => std::borrow::Cow::Borrowed(&all[..zero]),
                    Some(mut bytes) => {
                        bytes.extend_from_slice(&all[start..zero]);
                        bytes.into()
                    }
                });
            }
            Some(0xFF) => {
                owned.get_or_insert_default().extend_from_slice(&all[start..=zero]);
                start = zero + 2;
            }
            _ => return Err(broken("is damaged")),
        }
    }
}

fn broken(how: &str) -> Error {
    Error::new(ErrorKind::TypeMismatch, format!("an encoded tuple key {how}"))
}

fn not_utf8() -> Error {
    Error::new(ErrorKind::TypeMismatch, "a str element of a tuple key is not valid UTF-8")
}
