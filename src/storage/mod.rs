//! Files in a table's store, and nothing about tables: which of them are a migration's own, and the bytes in
//! them.

pub(crate) mod blob;
mod bucket;
pub(crate) mod deletion;
mod disk;
mod disk_writer;
pub(crate) mod files;
pub(crate) mod names;
mod object;
mod pace;
pub(crate) mod page;
pub(crate) mod part_copy;
pub(crate) mod sent;
pub(crate) mod throttle;
pub(crate) mod traffic;
pub(crate) mod tree;
pub(crate) mod uploads;
pub(crate) mod watch;
mod watched;
