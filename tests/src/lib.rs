//! What the tests of keysieve stand on: a naive [`oracle`], proptest [`strategies`] that aim at
//! trouble, [`shapes`] in the library's terms, and the table of [`device`]s that every test body is
//! stamped into; and the bodies of the [`fuzz`] targets.
//!
//! The tests themselves are in `tests/`: a file for each stage, named as the stage is, or a folder
//! where one file would be long.

pub mod archive;
pub mod checks;
pub mod device;
pub mod fuzz;
pub mod kmeans;
pub mod oracle;
pub mod ragged;
pub mod shapes;
pub mod sim_driver;
pub mod steps;
pub mod strategies;
