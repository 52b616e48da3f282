//! Encoded pages: what the values of a column are stored as. Where values stay as they are, their pages are
//! copied from one data file into another without being decoded.
//!
//! A column of pages has a hash: over how many rows each page has, how it is encoded, and every byte of its
//! buffers. Two columns with one hash hold the same values, since they are decoded from the same bytes.

mod blocks;
mod copy;
mod cut;
mod file;
mod hash;
mod io;
mod parts;
mod read;
mod read_along;

pub(crate) use crate::storage::page::copy::{CopiedColumns, bytes_of, copy};
pub(crate) use crate::storage::page::cut::ColumnPart;
pub(crate) use crate::storage::page::hash::{digest_of, digests_of, hashes};
pub(crate) use crate::storage::page::parts::{PartCopier, StoreParts};
pub(crate) use crate::storage::page::read_along::{OpenFile, ReadBack, ReadBackHashes};
pub(crate) use crate::storage::page::{blocks::Blocks, file::PageFile, read::projection};
