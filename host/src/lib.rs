//! Choose which cached keys a long-context language model should attend to, by product quantisation.
//!
//! ```text
//! keys    --train-->  centroids            cpu::codebook
//! keys    --encode--> codes                codes
//! query   --lut-->    table                lut
//! table + codes --scores--> scores         scores
//! scores  --top-k-->  heavy positions      top_k
//! sink | heavy | window --> positions      index_list  (+ weights)
//! ```
//!
//! [`KeyIndex`] holds the centroids and codes of one layer, [`Selector`] runs steps of it on a
//! [`Backend`], [`Selection`] is what a step gives. The two backends, [`cpu`] and [`cuda`], follow the
//! stages file by file and agree bit for bit.
//!
//! ```
//! use keysieve::{Backend, KeyIndex, Keys, PqConfig, Queries, SelectConfig, Selector, TrainConfig};
//!
//! # fn main() -> keysieve::Result<()> {
//! let keys: Vec<f32> = (0..64 * 8).map(|i| (i * 37 % 101) as f32 / 50.0).collect();
//! let pq = PqConfig { bits: 4, init_offset: 4, ..PqConfig::default() };
//! let index = KeyIndex::train(&pq, &TrainConfig::default(), Keys::new(&keys, [1, 1, 64, 8])?, 100)?;
//!
//! let select = SelectConfig { sink: 4, window: 4, heavy: 8, ..SelectConfig::default() };
//! let mut selector = Selector::new(&Backend::auto().backend, index, select, 1, 1)?;
//! let selection = selector.select(Queries::new(&[1.0; 8], [1, 1, 1, 8])?)?;
//! assert_eq!(selection.positions(0, 0, 0).len(), 4 + 8 + 4);
//! # Ok(())
//! # }
//! ```

pub mod config;
pub mod error;
pub mod tensor;

pub mod backend;
mod codebook_plan;
mod codebook_start;
pub mod index;
pub mod merge;

pub mod ragged;
pub mod selection;
pub mod selector;

pub mod cpu;
pub mod cuda;
pub mod files;
pub mod quality;
pub mod stages;

pub use backend::{AutoBackend, Backend};
pub use config::{
    Aggregation, CentroidDtype, IndexConfig, Metric, PqConfig, SelectConfig, Start, TrainConfig,
};
pub use error::{Error, Result};
pub use index::{Augmentation, IndexParts, KeyIndex};

pub use merge::{merge_selections, shard_config};
pub use ragged::{Paging, RaggedConfig, RaggedSelector, SequenceConfig};
pub use selection::{Indices, Selection};
pub use selector::Selector;
pub use tensor::{Component, Keys, Queries};
