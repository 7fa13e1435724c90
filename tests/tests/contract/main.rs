//! The contract's eight points, each a test by its number, on every device where it makes sense.

mod allocations;
mod caller;
mod candidates;
mod dtypes;
mod errors;
mod graph;
mod lists;
mod order;
mod rows;
mod sums;
mod whole;

use std::process::ExitCode;

use keysieve_tests::device::{CUDA, Suite};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.property(
        "contract_1_candidates",
        whole::whole_cases,
        candidates::candidates,
    );
    suite.property(
        "contract_2_total_order",
        order::stage_cases,
        order::total_order,
    );
    suite.on_each_device(
        "contract_2_total_order_of_special_scores",
        order::total_order_of_specials,
    );
    suite.property(
        "contract_3_list_ascends_without_duplicates",
        whole::whole_cases,
        lists::list_ascends,
    );
    suite.on_each_device(
        "contract_4_short_contexts_are_listed_whole",
        lists::short_contexts,
    );
    suite.on_each_device("contract_5_sums_are_fixed", sums::sums_are_fixed);
    suite.property(
        "contract_5_backends_give_equal_lists",
        whole::whole_cases,
        sums::backends_agree,
    );
    suite.property(
        "contract_5_halves_are_their_numbers",
        dtypes::cases,
        dtypes::halves_are_their_numbers,
    );
    suite.property(
        "contract_6_rows_stand_alone",
        whole::whole_cases,
        rows::rows_stand_alone,
    );
    suite.on_each_device(
        "contract_6_runs_and_threads_change_nothing",
        rows::runs_and_threads,
    );
    suite.on_device(
        "cpu",
        "contract_7_a_step_allocates_nothing",
        allocations::a_step_allocates_nothing,
    );
    suite.on_devices(
        &CUDA,
        "contract_7_a_graph_outlives_growth",
        graph::a_graph_outlives_growth,
    );
    suite.on_devices(
        &CUDA,
        "contract_7_replays_on_streams_by_turns",
        graph::replays_on_streams_by_turns,
    );
    suite.on_device(
        "cuda",
        "contract_7_four_streams_at_once",
        graph::four_streams_at_once,
    );
    suite.on_devices(
        &["cuda", "sim90"],
        "contract_7_a_callers_arrays_and_stream",
        caller::a_callers_arrays_and_stream,
    );
    suite.on_each_device(
        "contract_8_errors_name_the_argument_and_change_nothing",
        errors::bad_calls,
    );
    suite.on_each_device("contract_8_bad_halves", dtypes::bad_halves);
    suite.alone("contract_8_bad_arguments_are_named", errors::bad_arguments);
    suite.run()
}
