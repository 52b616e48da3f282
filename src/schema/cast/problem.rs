//! Why a value cannot be taken over.

/// Why a value cannot be taken over.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Problem {
    /// It is null where nulls are not allowed.
    Null,
    /// It is or holds a null struct, which the storage version does not tell from a struct of nulls.
    NullStruct,
    /// It is not a value of the type.
    NotAValue,
    /// It is out of the type's range.
    Overflow,
    /// The new type cannot hold all of it: cast back, it would be another value.
    Lossy,
    /// Its producer failed for this row, or gave something that is no value of the column.
    NotProduced,
}

impl Problem {
    /// Whether a null in its place is no way out.
    pub(crate) fn is_of_nulls(self) -> bool {
        matches!(self, Self::Null | Self::NullStruct)
    }

    /// The problem in words, after a count of values.
    pub fn text(self) -> &'static str {
        match self {
            Self::Null => "are null",
            Self::NullStruct => "are not kept by storage version 2.0, which has no null structs",
            Self::NotAValue => "are not of the type",
            Self::Overflow => "are out of range",
            Self::Lossy => "would lose digits or parts",
            Self::NotProduced => "are not given by their producer",
        }
    }

    /// The problem of one value in words.
    pub(crate) fn of_one(self) -> &'static str {
        match self {
            Self::Null => "it holds a null where the type allows none",
            Self::NullStruct => {
                "it would hold a null struct, which storage version 2.0 does not keep"
            }
            Self::NotAValue => "it is no value of the type",
            Self::Overflow => "it is out of range",
            Self::Lossy => "it would lose digits or parts",
            Self::NotProduced => "its producer gives none",
        }
    }
}
