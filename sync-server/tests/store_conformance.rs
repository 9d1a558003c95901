//! What every store promises. Each sentence is tried on SQLite, in a folder of its own, and on
//! PostgreSQL, with TimescaleDB and without, each in a database of its own on the server of
//! FOREBAY_TEST_DATABASE_URL (`tests/run` sets it; `tests/timescale up DIR PORT` prints one).

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests, and what they share")]

#[path = "store_conformance/access.rs"]
mod access;
#[path = "store_conformance/alarms.rs"]
mod alarms;
#[path = "store_conformance/answers.rs"]
mod answers;
#[path = "store_conformance/grafana.rs"]
mod grafana;
#[path = "store_conformance/hostile.rs"]
mod hostile;
#[path = "store_conformance/identity.rs"]
mod identity;
#[path = "store_conformance/ingest.rs"]
mod ingest;
#[path = "store_conformance/ledger.rs"]
mod ledger;
#[path = "store_conformance/lineage.rs"]
mod lineage;
#[path = "store_conformance/lives.rs"]
mod lives;
#[path = "store_conformance/migration.rs"]
mod migration;
#[path = "store_conformance/outage.rs"]
mod outage;
#[path = "store_conformance/place.rs"]
mod place;
#[path = "store_conformance/pulse.rs"]
mod pulse;
#[path = "store_conformance/quarantine.rs"]
mod quarantine;
#[path = "store_conformance/resolution.rs"]
mod resolution;
#[path = "store_conformance/retention.rs"]
mod retention;
#[path = "store_conformance/rollups.rs"]
mod rollups;

/// Three tests out of each sentence, so that a failure names its store.
macro_rules! on_every_store {
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
        mod plain_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $sentence() {
                super::place::Place::plain_postgres().await.live(super::$room::$sentence).await;
            })*
        }
    };
}

on_every_store! {
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
    resolution::every_resolution_keeps_extremes_holes_and_counts,
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
    identity::an_application_waits_for_an_operator_and_is_for_one_key_and_name,
    identity::who_waits_is_seen_by_the_tenant_of_its_token_alone,
    identity::who_leaves_or_is_revoked_is_told_and_its_key_lets_nobody_in,
    identity::a_certificate_that_a_backup_does_not_know_is_taken_in,
    lineage::an_unknown_opening_must_greet_before_anything_is_taken,
    lineage::an_agent_that_restarts_continues_its_history,
    lineage::a_copy_that_speaks_first_leaves_the_original_in_the_fork,
    lineage::what_was_refused_is_not_common_with_a_copy,
    lineage::a_copy_that_speaks_later_is_the_fork,
    lineage::a_copy_that_begins_in_a_later_boot_is_found_with_the_first_batch,
    lineage::a_copy_from_a_later_boot_shares_only_what_it_holds,
    lineage::batches_that_only_the_disk_lost_at_a_power_cut_are_no_fork,
    lineage::the_original_is_told_only_of_what_was_common_until_it_speaks_itself,
    lineage::a_batch_with_a_point_the_copy_does_not_know_is_the_originals,
    lineage::a_third_copy_shares_with_whom_it_was_copied_from,
    lineage::an_older_state_that_was_restored_is_a_fork_at_its_first_word,
    lineage::a_fork_of_a_fork_keeps_all_histories_apart,
    lineage::a_fork_has_its_own_dictionary_and_gaps_beyond_the_border,
    lineage::a_copy_is_found_by_a_gap_number_that_is_given_already,
    lineage::gaps_that_a_restored_server_lost_are_asked_for_again,
    lineage::who_continues_nothing_known_continues_the_main_history,
    lineage::greetings_that_no_buffer_says_do_not_hurt,
    lineage::the_highest_ranges_are_told_and_whether_they_are_all,
    lineage::two_copies_at_two_servers_at_once_are_stored_once_each,
    lineage::another_batch_under_a_known_number_is_set_aside_and_told,
    lineage::checksums_are_kept_of_the_newest_batches_only,
    ledger::each_buffer_has_its_books,
    ledger::a_new_buffer_while_the_old_one_held_readings_is_told_as_wiped,
    ledger::a_new_buffer_after_a_drained_one_is_no_fault,
    ledger::a_restored_server_says_so_until_the_gateway_has_refilled_it,
    ledger::a_forks_books_count_the_history_it_shares,
    ledger::faults_stand_are_renewed_and_end,
    ledger::corrected_times_are_marked_by_boot_and_kind,
    ledger::a_silent_device_is_named_by_its_gap,
    lives::whatever_becomes_of_buffers_each_batch_is_there_once,
    rollups::a_query_is_answered_as_if_there_were_no_rollups,
    rollups::late_readings_make_exactly_their_buckets_anew,
    rollups::a_spike_of_one_reading_shows_in_the_chart_of_years,
    rollups::the_present_minute_waits_until_it_is_over,
    rollups::several_servers_and_interruptions_make_the_same_rollups,
    retention::nothing_goes_that_is_not_rolled_up,
    retention::what_goes_stays_in_rollups_and_in_the_books,
    retention::what_comes_after_retention_is_added_once,
    retention::all_readings_before_a_midnight_go_whole,
    retention::partitions_are_made_ahead_of_time_and_of_what_came_before_them,
    retention::the_store_says_what_it_is_and_how_large,
    pulse::bytes_of_a_day_are_counted_by_all_servers_together,
    pulse::the_newest_reading_tells_how_far_what_is_stored_is_behind,
    pulse::a_backlogs_pace_is_told_by_its_reports_and_begins_anew_with_another_buffer,
    quarantine::a_batch_set_aside_is_replayed_once_and_the_books_follow,
    quarantine::readings_at_impossible_times_are_moved_and_stored,
    alarms::an_alarm_is_raised_once_whoever_looks_and_cleared_once,
    alarms::what_was_decided_on_an_older_version_does_nothing,
    alarms::an_acknowledged_alarm_that_grows_is_active_again,
    alarms::what_waits_for_its_delay_is_there_after_a_restart,
    alarms::alarms_come_in_pages_by_state_and_site,
    alarms::webhooks_follow_events_in_order_each_from_its_own_place,
    alarms::one_server_at_a_time_tells_a_webhook,
    alarms::alarms_are_of_one_tenant,
    alarms::an_interval_in_which_an_agent_was_not_heard_is_kept,
    alarms::points_are_found_by_several_words_and_by_their_site,
    access::a_tenant_sees_its_own_and_nothing_else,
    access::times_corrected_are_told_to_their_tenant_only,
    access::users_are_of_one_tenant_and_the_last_admin_stays,
    access::of_many_that_want_to_be_the_first_user_one_is,
    access::a_session_ends_with_its_user_its_password_or_its_time,
    access::keys_are_found_by_hash_and_removed_by_their_tenant_only,
    access::every_change_is_in_the_audit_and_no_secret_is,
    migration::a_database_of_the_first_version_keeps_everything,
    outage::what_was_acknowledged_is_there_after_a_restart,
    outage::several_servers_start_at_once_on_an_empty_database,
}
