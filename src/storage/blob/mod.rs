//! Blobs whose bytes lie beside their column: reading them where the live table has them, and giving a staged
//! file the same ones.
//!
//! A sidecar belongs to one data file: it lies in a folder of that file's name (lance-core 14
//! `src/utils/blob.rs`). A staged file gets sidecars of its own, copied inside the store: on a disk that is
//! a second name for the same bytes, which costs nothing, and which neither side ever writes to.

mod read;
mod write;

pub(crate) use crate::storage::blob::{read::Blobs, write::Sidecars};
