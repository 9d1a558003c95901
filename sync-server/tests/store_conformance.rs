//! What every store promises. Each sentence is tried on SQLite, in a folder of its own, and on
//! PostgreSQL, in a database of its own on the server of FOREBAY_TEST_DATABASE_URL (`tests/run` sets
//! it; `tests/timescale up DIR PORT` prints one).

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests, and what they share")]

#[path = "store_conformance/answers.rs"]
mod answers;
#[path = "store_conformance/hostile.rs"]
mod hostile;
#[path = "store_conformance/identity.rs"]
mod identity;
#[path = "store_conformance/ingest.rs"]
mod ingest;
#[path = "store_conformance/outage.rs"]
mod outage;
#[path = "store_conformance/place.rs"]
mod place;

/// Two tests out of each sentence, so that a failure names its store.
macro_rules! on_both_stores {
    ($($room:ident::$sentence:ident,)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $sentence() {
                super::place::Place::sqlite().live(super::$room::$sentence).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $sentence() {
                super::place::Place::postgres().await.live(super::$room::$sentence).await;
            })*
        }
    };
}

on_both_stores! {
    ingest::a_repeated_batch_is_acknowledged_and_not_stored_again,
    ingest::one_batch_sent_many_times_at_once_is_stored_once,
    ingest::two_servers_on_one_database_store_everything_once,
    ingest::one_agent_twice_in_a_call_is_as_twice_in_a_row,
    ingest::ten_thousand_sequences_in_any_order_become_one_range,
    ingest::an_error_leaves_nothing_of_the_transaction,
    ingest::a_batch_ahead_of_the_dictionary_waits_for_it,
    ingest::what_lies_beyond_a_hole_in_the_dictionary_is_not_taken,
    ingest::late_readings_are_found_and_do_not_become_the_latest,
    ingest::a_batch_that_did_not_decode_is_kept_and_acknowledged,
    ingest::a_gap_is_kept_once_and_names_its_point,
    ingest::the_newest_report_says_how_a_gateway_is,
    answers::every_value_comes_back_bit_for_bit,
    answers::every_quality_comes_back,
    answers::buckets_are_aligned_and_weigh_only_what_was_measured,
    answers::an_answer_is_bounded_and_in_the_order_asked,
    answers::sums_beyond_the_largest_float_still_answer,
    answers::points_are_found_by_any_part_of_their_name,
    answers::points_come_in_pages,
    answers::a_newer_dictionary_renews_what_is_known_of_a_point,
    hostile::times_outside_reason_go_to_quarantine,
    hostile::a_batch_the_database_refuses_is_set_aside_alone,
    hostile::values_of_a_point_whose_type_is_unknown_keep_their_own,
    hostile::nul_in_names_and_text_does_not_hurt,
    hostile::endless_names_stay_different_points,
    hostile::numbers_that_no_buffer_gives_do_not_hurt,
    identity::a_token_is_used_once_however_many_come_at_once,
    identity::a_token_says_why_it_is_worth_nothing,
    identity::certificates_renew_and_the_old_one_stays_good,
    identity::a_revoked_agent_is_told_from_a_stranger_and_may_join_again,
    outage::what_was_acknowledged_is_there_after_a_restart,
    outage::several_servers_start_at_once_on_an_empty_database,
}
