//! What the tests of keysieve stand on: a naive [`oracle`], proptest [`strategies`] that aim at
//! trouble, and the table of [`device`]s that every test body is stamped into.
//!
//! The tests themselves are the files of `tests/`, one for each stage, named as the stage is.

pub mod device;
pub mod oracle;
pub mod strategies;
