//! Files: what is saved is what is loaded, and no file whatever makes the library panic.

mod archive;
mod hostile;
mod index;
mod kv;
mod paths;
mod selection;
mod wrong;

use std::process::ExitCode;

use keysieve_tests::device::Suite;
use keysieve_tests::strategies::{FINITE, fills};
use proptest::prelude::any;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.property_alone(
        "index_survives_saving_and_loading",
        index::index_cases,
        index::index_survives,
    );
    suite.property(
        "selection_file_holds_the_selection",
        selection::selection_cases,
        selection::selection_is_saved,
    );
    suite.property_alone(
        "kv_of_every_dtype_is_read",
        || fills(FINITE),
        kv::kv_is_read,
    );
    suite.property_alone(
        "half_floats_widen_exactly",
        any::<u16>,
        kv::half_floats_widen,
    );
    suite.alone(
        "another_programs_index_is_accepted",
        index::another_programs_index,
    );
    suite.alone(
        "every_truncation_is_refused",
        hostile::every_truncation_is_refused,
    );
    suite.property_alone(
        "no_bytes_make_it_panic",
        hostile::broken_cases,
        hostile::no_bytes_panic,
    );
    suite.property_alone(
        "no_header_makes_it_panic",
        hostile::header_cases,
        hostile::no_header_panics,
    );
    suite.alone("wrong_tensors_are_named", wrong::wrong_tensors_are_named);
    suite.alone(
        "wrong_augmentation_is_named",
        wrong::wrong_augmentation_is_named,
    );
    suite.alone("wrong_metadata_is_named", wrong::wrong_metadata_is_named);
    suite.alone(
        "unreadable_and_unwritable_paths_are_named",
        paths::bad_paths,
    );
    suite.alone(
        "a_failed_save_leaves_everything_as_it_was",
        paths::failed_save,
    );
    suite.run()
}
