//! The table of all kernels: what the host loads, and what `cargo xtask` builds and checks.

use crate::kernel::{KernelArgs, KernelInfo};
use crate::{
    aggregate, codes, gather, heavy_scores, index_list, indices, kmeans, lut, quantisation_error,
    scores, select, select_tuples, top_k, tuple_counts, weights,
};

/// Every kernel of the crate, in data-flow order.
pub const KERNELS: &[KernelInfo] = &[
    gather::Gather::INFO,
    codes::Codes::INFO,
    codes::Advance::INFO,
    kmeans::KMeansSurvey::INFO,
    kmeans::KMeansStart::INFO,
    kmeans::KMeansAssign::INFO,
    kmeans::KMeansUpdate::INFO,
    quantisation_error::QuantisationError::INFO,
    tuple_counts::TupleCounts::INFO,
    lut::Lut::INFO,
    scores::Scores::INFO,
    aggregate::SoftmaxMax::INFO,
    aggregate::SoftmaxSum::INFO,
    aggregate::Aggregate::INFO,
    top_k::TopKHistogram::INFO,
    top_k::TopKDigit::INFO,
    top_k::TopKCount::INFO,
    top_k::TopKGather::INFO,
    heavy_scores::HeavyScores::INFO,
    index_list::IndexList::INFO,
    indices::Indices::INFO,
    weights::Weights::INFO,
    select::SelectSurvivors::INFO,
    select::SelectSurvivorsFiltered::INFO,
    select::SelectSurvivorsClustered::INFO,
    select_tuples::SelectTuples::INFO,
    select_tuples::SelectTuplesReference::INFO,
    select_tuples::SelectTuplesReferenceLong::INFO,
];
