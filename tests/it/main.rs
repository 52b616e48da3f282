//! One binary: Lance takes long to link.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    clippy::match_wildcard_for_single_variants,
    unreachable_pub,
    missing_docs,
    reason = "tests may fail loudly"
)]

mod support;

mod after;
mod api;
mod blobs;
mod catchup;
mod changes;
mod cli;
mod crash;
mod digest;
mod elsewhere;
mod gate;
#[cfg(unix)] // its examples run in a shell
mod guide;
mod index;
mod json;
mod layers;
mod lease;
mod levels;
#[cfg(unix)]
mod links;
#[cfg(target_os = "linux")] // whose kernel tells how much memory a process had
mod memory;
mod model;
mod names;
mod nulls;
mod pages;
mod plan;
mod property;
mod quarantine;
mod readers;
mod resume;
mod rewrite;
mod rollback;
mod row_versions;
mod schemas;
mod shown;
mod storage;
mod swap;
mod time;
mod types;
mod undo;
mod values;
mod verify;
mod wreck;
mod writers;
