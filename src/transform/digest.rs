//! A digest of a column's values, in row order, that does not depend on how the rows were cut into
//! batches, on offsets into shared buffers, or on what lies under a null.
//!
//! Every level of a column (the column, a struct's field, a list's items) has up to three streams:
//! validity as runs, lengths, and values of the rows that are there. Each is hashed on its own
//! (xxh3, 128 bits), so that two columns with one digest have the same rows, nulls and lengths.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use std::fmt;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, GenericByteArray, GenericListArray, OffsetSizeTrait,
};
use arrow::buffer::{BooleanBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{ByteArrayType, DataType, Field};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};

/// The version of the definition of digests. Digests of different versions cannot be compared: a change here, or in
/// the definition of the pages' hashes (`src/storage/page/hash.rs`), raises it.
pub(crate) const DIGEST_VERSION: u32 = 1;

/// The digest of a whole column.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(u128);

impl Digest {
    /// The digest of what `hash` has taken in.
    pub(crate) fn of(hash: &Xxh3) -> Self {
        Self(hash.digest128())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let value = u128::from_str_radix(&String::deserialize(from)?, 16);
        value.map(Self).map_err(serde::de::Error::custom)
    }
}

/// Takes the digest of one column, batch by batch.
pub struct ColumnDigest {
    level: Level,
}

impl fmt::Debug for ColumnDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ColumnDigest").finish_non_exhaustive()
    }
}

impl ColumnDigest {
    /// The digest of no rows yet of `field`.
    ///
    /// # Errors
    /// `Refused`, for a type that Lance does not store.
    pub fn new(field: &Field) -> Result<Self> {
        let level = Level::of(field.data_type()).map_err(|data_type| {
            let name = field.name();
            Error::refused(format!("column `{name}` has a type without a digest: {data_type}"))
        })?;
        Ok(Self { level })
    }

    /// Takes in the next rows.
    ///
    /// # Errors
    /// `Failed`, when the rows are of another type than the field was.
    pub fn update(&mut self, rows: &ArrayRef) -> Result<()> {
        self.level
            .update(rows)
            .map_err(|error| Error::failed("cannot take the digest of a column").caused_by(error))
    }

    /// The digest of all rows so far.
    pub fn finish(mut self) -> Digest {
        let mut whole = Xxh3::new();
        self.level.finish(&mut whole);
        Digest::of(&whole)
    }
}

type ArrowResult<T> = std::result::Result<T, arrow::error::ArrowError>;

/// One level of a column: which rows are there, and what they hold.
struct Level {
    validity: Runs,
    content: Content,
}

/// What the rows that are there hold.
enum Content {
    /// Nothing: a null column.
    Nothing,
    /// Booleans, a byte each.
    Bits(Box<Xxh3>),
    /// Values of this many bytes.
    Fixed(Box<Xxh3>, usize),
    /// Strings and binaries.
    Bytes(Box<Variable>),
    /// Lists and maps: the lengths, and the items of all of them.
    List(Box<Lists>),
    /// Lists of this many items.
    FixedList(Box<Level>, usize),
    /// A level for each field.
    Struct(Vec<Level>),
    /// Rows that are cast to this type first: dictionaries and views.
    As(DataType, Box<Level>),
}

#[derive(Default)]
struct Variable {
    lengths: Xxh3,
    values: Xxh3,
    scratch: Vec<u8>,
}

struct Lists {
    lengths: Xxh3,
    items: Level,
}

impl Level {
    fn of(data_type: &DataType) -> std::result::Result<Self, DataType> {
        Ok(Self { validity: Runs::default(), content: Content::of(data_type)? })
    }

    fn update(&mut self, rows: &ArrayRef) -> ArrowResult<()> {
        if rows.is_empty() {
            return Ok(());
        }
        // A dictionary can have nulls among its values too: it is cast to plain rows first.
        if let Content::As(plain, level) = &mut self.content {
            return level.update(&cast(rows, plain)?);
        }
        let nulls = rows.logical_nulls().filter(|nulls| nulls.null_count() > 0);
        let Some(nulls) = nulls else {
            self.validity.push(true, rows.len());
            return self.content.update(rows);
        };
        self.validity.extend(nulls.inner());
        if matches!(self.content, Content::Nothing) || nulls.null_count() == rows.len() {
            return Ok(());
        }
        let there = BooleanArray::new(nulls.inner().clone(), None);
        self.content.update(&arrow_select::filter::filter(rows, &there)?)
    }

    fn finish(&mut self, whole: &mut Xxh3) {
        self.validity.finish(whole);
        self.content.finish(whole);
    }
}

impl Content {
    fn of(data_type: &DataType) -> std::result::Result<Self, DataType> {
        let hash = || Box::new(Xxh3::new());
        let level = |field: &Field| Level::of(field.data_type()).map(Box::new);
        Ok(match data_type {
            DataType::Null => Self::Nothing,
            DataType::Boolean => Self::Bits(hash()),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => {
                Self::Bytes(Box::default())
            }
            DataType::FixedSizeBinary(width) => Self::Fixed(hash(), width_of(*width)),
            DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => {
                let items = Level::of(item.data_type())?;
                Self::List(Box::new(Lists { lengths: Xxh3::new(), items }))
            }
            DataType::FixedSizeList(item, size) => Self::FixedList(level(item)?, width_of(*size)),
            DataType::Struct(fields) => {
                let levels = fields.iter().map(|field| Level::of(field.data_type()));
                Self::Struct(levels.collect::<std::result::Result<_, _>>()?)
            }
            DataType::Dictionary(_, values) => Self::converted(values.as_ref().clone())?,
            DataType::Utf8View => Self::converted(DataType::LargeUtf8)?,
            DataType::BinaryView => Self::converted(DataType::LargeBinary)?,
            other => match other.primitive_width() {
                Some(width) => Self::Fixed(hash(), width),
                None => return Err(other.clone()),
            },
        })
    }

    fn converted(plain: DataType) -> std::result::Result<Self, DataType> {
        let level = Box::new(Level::of(&plain)?);
        Ok(Self::As(plain, level))
    }

    /// Takes in rows of which none is null.
    fn update(&mut self, rows: &ArrayRef) -> ArrowResult<()> {
        match self {
            Self::Nothing => {}
            Self::Bits(hash) => {
                let bytes: Vec<u8> = rows.as_boolean().values().iter().map(u8::from).collect();
                hash.update(&bytes);
            }
            Self::Fixed(hash, width) => hash.update(fixed_values(rows, *width)?),
            Self::Bytes(variable) => variable.update(rows)?,
            Self::List(lists) => lists.update(rows)?,
            Self::FixedList(items, size) => {
                let list = rows.as_fixed_size_list();
                let start = usize::try_from(list.value_offset(0)).unwrap_or_default();
                items.update(&list.values().slice(start, list.len() * *size))?;
            }
            Self::Struct(levels) => {
                let mut pairs = levels.iter_mut().zip(rows.as_struct().columns());
                pairs.try_for_each(|(level, column)| level.update(column))?;
            }
            Self::As(plain, level) => level.update(&cast(rows, plain)?)?,
        }
        Ok(())
    }

    fn finish(&mut self, whole: &mut Xxh3) {
        match self {
            Self::Nothing => {}
            Self::Bits(hash) | Self::Fixed(hash, _) => add(whole, hash),
            Self::Bytes(variable) => {
                add(whole, &variable.lengths);
                add(whole, &variable.values);
            }
            Self::List(lists) => {
                add(whole, &lists.lengths);
                lists.items.finish(whole);
            }
            Self::FixedList(level, _) | Self::As(_, level) => level.finish(whole),
            Self::Struct(levels) => levels.iter_mut().for_each(|level| level.finish(whole)),
        }
    }
}

impl Variable {
    fn update(&mut self, rows: &ArrayRef) -> ArrowResult<()> {
        match rows.data_type() {
            DataType::Utf8 => self.update_bytes(rows.as_string::<i32>()),
            DataType::LargeUtf8 => self.update_bytes(rows.as_string::<i64>()),
            DataType::Binary => self.update_bytes(rows.as_binary::<i32>()),
            DataType::LargeBinary => self.update_bytes(rows.as_binary::<i64>()),
            other => return Err(unexpected(other)),
        }
        Ok(())
    }

    fn update_bytes<T: ByteArrayType>(&mut self, rows: &GenericByteArray<T>) {
        let (start, end) = ends(rows.offsets());
        if let Some(values) = rows.values().as_slice().get(start..end) {
            self.values.update(values);
        }
        self.scratch = lengths(rows.offsets(), std::mem::take(&mut self.scratch));
        self.lengths.update(&self.scratch);
    }
}

impl Lists {
    fn update(&mut self, rows: &ArrayRef) -> ArrowResult<()> {
        match rows.data_type() {
            DataType::List(_) => self.update_list(rows.as_list::<i32>()),
            DataType::LargeList(_) => self.update_list(rows.as_list::<i64>()),
            DataType::Map(..) => {
                let map = rows.as_map();
                let entries: ArrayRef = std::sync::Arc::new(map.entries().clone());
                self.update_items(map.offsets(), &entries)
            }
            other => Err(unexpected(other)),
        }
    }

    fn update_list<O: OffsetSizeTrait>(&mut self, list: &GenericListArray<O>) -> ArrowResult<()> {
        self.update_items(list.offsets(), list.values())
    }

    fn update_items<O: OffsetSizeTrait>(
        &mut self,
        offsets: &OffsetBuffer<O>,
        values: &ArrayRef,
    ) -> ArrowResult<()> {
        self.lengths.update(&lengths(offsets, Vec::new()));
        let (start, end) = ends(offsets);
        self.items.update(&values.slice(start, end - start))
    }
}

/// Runs of rows that are there and rows that are null.
#[derive(Default)]
struct Runs {
    hash: Xxh3,
    /// Whether the rows of the run that may go on, which is not in the hash yet, are there.
    there: bool,
    /// Rows of that run.
    rows: u64,
}

impl Runs {
    /// Takes in the next `rows`, which are all `there`, or all null. No rows do not end a run.
    fn push(&mut self, there: bool, rows: usize) {
        if rows > 0 && there != self.there {
            self.close();
            self.there = there;
        }
        self.rows += rows as u64;
    }

    fn extend(&mut self, validity: &BooleanBuffer) {
        let mut at = 0;
        for (start, end) in validity.set_slices() {
            self.push(false, start - at);
            self.push(true, end - start);
            at = end;
        }
        self.push(false, validity.len() - at);
    }

    fn close(&mut self) {
        if self.rows > 0 {
            self.hash.update(&[u8::from(self.there)]);
            self.hash.update(&self.rows.to_le_bytes());
        }
        self.rows = 0;
    }

    fn finish(&mut self, whole: &mut Xxh3) {
        self.close();
        add(whole, &self.hash);
    }
}

fn add(whole: &mut Xxh3, part: &Xxh3) {
    whole.update(&part.digest128().to_le_bytes());
}

/// The bytes of fixed-width rows, without those before and after the slice.
fn fixed_values(rows: &ArrayRef, width: usize) -> ArrowResult<&[u8]> {
    let values = match rows.data_type() {
        DataType::FixedSizeBinary(_) => {
            rows.as_fixed_size_binary().value_data().get(..rows.len() * width)
        }
        _ => primitive_values(rows),
    };
    values.ok_or_else(|| unexpected(rows.data_type()))
}

/// The values of a primitive array of whatever type.
fn primitive_values(rows: &ArrayRef) -> Option<&[u8]> {
    arrow::array::downcast_primitive_array!(
        rows => {
            let values = rows.values().inner().as_slice();
            let width = rows.data_type().primitive_width()?;
            values.get(..rows.len() * width)
        }
        _ => None
    )
}

fn ends<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>) -> (usize, usize) {
    let start = offsets.first().map_or(0, |offset| offset.as_usize());
    let end = offsets.last().map_or(0, |offset| offset.as_usize());
    (start, end)
}

/// Lengths as 64 bits, so that a `string` and a `large_string` of the same values agree. They are put into the
/// memory of `scratch`.
fn lengths<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>, mut scratch: Vec<u8>) -> Vec<u8> {
    scratch.clear();
    scratch.reserve(offsets.len() * 8);
    let mut before = offsets.first().map_or(0, |offset| offset.as_usize());
    for offset in offsets.iter().skip(1) {
        let length = (offset.as_usize() - before) as u64;
        scratch.extend_from_slice(&length.to_le_bytes());
        before = offset.as_usize();
    }
    scratch
}

fn width_of(width: i32) -> usize {
    usize::try_from(width).unwrap_or_default()
}

fn unexpected(data_type: &DataType) -> arrow::error::ArrowError {
    arrow::error::ArrowError::InvalidArgumentError(format!("unexpected rows of type {data_type}"))
}
