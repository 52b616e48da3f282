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
    /// It is not a value of the type.
    NotAValue,
    /// It is out of the type's range.
    Overflow,
    /// The new type cannot hold all of it: cast back, it would be another value.
    Lossy,
}

impl Problem {
    /// The problem in words, after a count of values.
    pub fn text(self) -> &'static str {
        match self {
            Self::Null => "are null",
            Self::NotAValue => "are not of the type",
            Self::Overflow => "are out of range",
            Self::Lossy => "would lose digits or parts",
        }
    }

    /// The problem of one value in words.
    pub(crate) fn of_one(self) -> &'static str {
        match self {
            Self::Null => "it holds a null where the type allows none",
            Self::NotAValue => "it is no value of the type",
            Self::Overflow => "it is out of range",
            Self::Lossy => "it would lose digits or parts",
        }
    }
}
