//! One binary: Lance takes long to link.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs,
    reason = "tests may fail loudly"
)]

mod support;

mod cli;
mod digest;
mod index;
mod layers;
mod plan;
mod resume;
mod rewrite;
mod rollback;
mod swap;
mod types;
mod verify;
