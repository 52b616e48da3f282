//! Files in the store, and nothing about tables: the migration's own files, by name, and the bytes in them.

pub(crate) mod throttle;
