"""The test of each threat, or why it has none yet. A test compares this table with the files that it names."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One threat: the tests that try it, the reason if there is no test, or what the tests leave open."""

    threat: str
    tests: tuple[str, ...] = ()
    reason: str = ""


_NAMES = "tests/security/test_names.py::"
_INTEGRITY = "tests/security/test_integrity.py::"
_REQUESTS = "tests/security/test_requests.py::"
_DENIAL = "tests/security/test_denial.py::"
_LEAKS = "tests/security/test_leaks.py::"
_INPUT = "tests/web/test_bad_input.py::"
_PUSH_INPUT = "tests/web/test_push_bad_input.py::"
_SEGMENT = f"{_NAMES}test_no_route_takes_a_bad_segment"
_TEXT = f"{_NAMES}test_no_body_has_a_bad_text_in_it"
_PATHS = (f"{_INPUT}test_a_path_against_the_rule_is_refused", f"{_PUSH_INPUT}test_a_wrong_path_is_refused")
_MODEL_NAME = f"{_INPUT}test_a_model_name_against_the_rule_is_refused"
_NO_TOKENS = "There are no tokens yet: everybody is the same actor and may do everything."
_NO_SCANNERS = "The service looks into no file: it stores bytes, and says nothing about what they are."

ROWS = {
    # A. Names, paths, locations
    "T01": Row("`..` in paths", (_SEGMENT, _TEXT, *_PATHS, f"{_INPUT}test_a_tricky_target_reaches_nothing")),
    "T02": Row(
        "decoding twice",
        (
            _SEGMENT,
            f"{_NAMES}test_what_is_decoded_is_decoded_once",
            f"{_INPUT}test_a_filename_is_taken_literally",
        ),
    ),
    "T03": Row("backslashes", (_SEGMENT, *_PATHS, f"{_INPUT}test_a_filename_is_taken_literally")),
    "T04": Row("absolute paths, drives, shares, schemes", (_SEGMENT, *_PATHS)),
    "T05": Row("`#`, `?` and `;` in names", (_SEGMENT, _TEXT, _MODEL_NAME)),
    "T06": Row(
        "a location of the client's choice",
        (
            f"{_NAMES}test_no_body_says_where_the_bytes_are",
            f"{_NAMES}test_a_key_is_never_made_of_what_a_client_says",
            f"{_INPUT}test_an_unknown_field_is_refused",
        ),
    ),
    "T07": Row("a tag that switches validation off", (f"{_NAMES}test_no_tag_and_no_metadata_switches_a_rule_off",)),
    "T08": Row(
        "NUL and lone surrogates",
        (
            _SEGMENT,
            _TEXT,
            f"{_INPUT}test_a_value_that_json_or_the_database_cannot_hold_is_named",
            f"{_INPUT}test_a_key_that_the_database_cannot_hold_is_refused",
        ),
    ),
    "T09": Row("line ends in names and in the log", (_SEGMENT, f"{_INPUT}test_a_request_is_one_line_in_the_log")),
    "T10": Row("an encoded slash", (_SEGMENT, f"{_INPUT}test_an_encoded_slash_removes_nothing", _MODEL_NAME)),
    "T11": Row(
        "names that differ in case alone",
        (
            f"{_INPUT}test_a_name_that_differs_in_case_alone_is_taken",
            "tests/services/test_models.py::test_a_name_is_taken_regardless_of_case",
            "tests/services/test_push.py::test_a_name_that_differs_in_case_alone_is_refused",
        ),
    ),
    "T12": Row(
        "Unicode that looks alike",
        (_SEGMENT, _TEXT, _MODEL_NAME, *_PATHS, f"{_PUSH_INPUT}test_paths_that_clash_are_refused"),
    ),
    "T13": Row("bad UTF-8", (_SEGMENT, f"{_INPUT}test_a_tricky_target_reaches_nothing")),
    "T14": Row(
        "reserved names",
        (
            _SEGMENT,
            f"{_INPUT}test_a_version_against_the_rule_is_refused",
            f"{_INPUT}test_what_cannot_be_an_alias_is_refused",
            f"{_NAMES}test_a_name_that_only_looks_special_is_a_name",
        ),
        "The contract reserves no word among model names; versions and aliases have reserved ones.",
    ),
    "T15": Row(
        "paths that no disk can hold together",
        (
            f"{_INPUT}test_two_paths_that_no_disk_can_hold_together_are_refused",
            f"{_PUSH_INPUT}test_paths_that_clash_are_refused",
        ),
    ),
    "T16": Row("empty segments", (_SEGMENT, *_PATHS)),
    "T17": Row(
        "sizes",
        (
            *_PATHS,
            f"{_NAMES}test_long_nonsense_in_a_body_takes_no_time",
            f"{_PUSH_INPUT}test_a_manifest_has_at_most_100_000_files",
            f"{_PUSH_INPUT}test_wrong_tags_are_refused",
        ),
        "The contract bounds a path and not its segments.",
    ),
    "T18": Row(
        "validators that take for ever",
        (
            f"{_NAMES}test_long_nonsense_in_a_body_takes_no_time",
            f"{_NAMES}test_long_nonsense_in_an_address_takes_no_time",
            f"{_INPUT}test_a_long_name_is_refused_at_once",
            "tests/domain/test_search_filter.py::test_long_nonsense_is_refused",
        ),
    ),
    # B. Integrity and immutability
    "T19": Row(
        "a wrong digest",
        (
            f"{_INTEGRITY}test_what_was_refused_is_not_there",
            "tests/services/test_push_proxied.py::test_bytes_that_were_not_declared_are_not_kept",
            "tests/services/test_push.py::test_wrong_bytes_are_refused_by_storage_and_sent_again_to_the_same_url",
            "tests/services/test_push_parts.py::test_wrong_bytes_in_a_part_are_found_and_the_file_gets_a_fresh_key",
        ),
    ),
    "T20": Row(
        "a body that is cut",
        (
            f"{_INPUT}test_a_body_that_is_cut_registers_nothing",
            f"{_INPUT}test_a_whole_form_without_the_end_of_its_chunks_registers_nothing",
            f"{_INPUT}test_json_that_is_cut_registers_nothing",
            "tests/services/test_push_proxied.py::test_a_body_that_breaks_off_leaves_nothing",
        ),
    ),
    "T21": Row(
        "more bytes than were declared",
        (
            "tests/services/test_push_proxied.py::test_bytes_that_were_not_declared_are_not_kept",
            "tests/services/test_push_parts.py::test_a_part_of_another_size_is_refused_by_storage",
            f"{_INPUT}test_a_file_over_the_limit_is_too_large",
        ),
    ),
    "T22": Row(
        "a version written over",
        (
            f"{_INTEGRITY}test_what_was_ready_never_names_other_bytes",
            "tests/test_model_registry.py::test_register_duplicate_model",
            "tests/services/test_push.py::test_another_push_of_a_label_that_is_taken_is_refused",
        ),
    ),
    "T23": Row(
        "a harmless repeat",
        (
            "tests/services/test_push.py::test_the_same_push_again_returns_the_version_as_it_is",
            "tests/services/test_registration.py::test_a_retry_with_its_idempotency_key_gets_the_first_response",
        ),
    ),
    "T24": Row(
        "a label used again after its removal",
        (
            f"{_INTEGRITY}test_what_was_ready_never_names_other_bytes",
            "tests/services/test_lifecycle.py::test_a_label_is_never_used_twice",
            "tests/services/test_registration.py::test_the_service_refuses_to_reuse_the_label_of_a_removed_version",
        ),
    ),
    "T25": Row(
        "somebody else's upload",
        (
            "tests/services/test_push_proxied.py::test_only_its_owner_can_continue_a_pending_version",
            "tests/services/test_push_parts.py::test_parts_of_another_version_are_unknown",
            "tests/services/test_push_parts.py::test_an_upload_that_is_not_there_is_unknown",
        ),
    ),
    "T26": Row(
        "a URL used once more",
        (
            "tests/services/test_push.py::test_a_url_that_is_used_again_changes_no_published_bytes",
            "tests/services/test_push_parts.py::test_urls_of_parts_are_invalid_after_the_commit",
            "tests/object_store/test_sigv4.py::test_a_second_put_changes_nothing",
        ),
    ),
    "T27": Row(
        "a URL used for other bytes",
        (
            "tests/object_store/test_sigv4.py::test_other_bytes_are_refused",
            "tests/object_store/test_sigv4.py::test_other_headers_are_refused",
            "tests/object_store/test_sigv4.py::test_a_body_that_ends_early_leaves_nothing",
            "tests/object_store/test_sigv4.py::test_a_url_is_for_one_key_one_method_and_one_time_span",
            "tests/services/test_push.py::test_clients_send_nothing_to_a_store_that_enforces_no_checksums",
        ),
    ),
    "T28": Row(
        "bytes that change in storage",
        (
            "tests/services/test_downloads.py::test_bytes_that_changed_in_storage_never_arrive_as_a_whole_file",
            "tests/maintenance/test_scrubber.py::test_damaged_bytes_are_found_and_marked",
            "tests/maintenance/test_scrubber.py::test_the_next_upload_of_the_same_bytes_heals_a_damaged_blob",
        ),
    ),
    "T29": Row(
        "bytes claimed by their digest",
        (f"{_INTEGRITY}test_a_digest_is_no_claim_to_bytes_that_nobody_sent",),
        "There are no namespaces: an actor who may push may read all stored bytes.",
    ),
    "T30": Row(
        "what was deleted read by another way",
        (
            f"{_INTEGRITY}test_a_version_that_was_removed_stays_so_while_another_shows_its_bytes",
            "tests/services/test_lifecycle.py::test_a_removed_version_is_gone_everywhere",
        ),
        "Between models; there are no namespaces.",
    ),
    "T31": Row("digests that are none", (f"{_PUSH_INPUT}test_a_wrong_file_is_refused",)),
    "T32": Row(
        "the same key or path twice",
        (
            f"{_INPUT}test_a_key_that_stands_twice_in_the_body_is_refused",
            f"{_INPUT}test_a_repeated_field_is_refused",
            f"{_PUSH_INPUT}test_what_is_no_push_is_refused",
            f"{_PUSH_INPUT}test_paths_that_clash_are_refused",
        ),
    ),
    "T33": Row(
        "games with parts",
        (
            "tests/services/test_push_parts.py::test_numbers_that_no_part_has_are_refused",
            "tests/services/test_push_parts.py::test_a_list_of_parts_that_were_not_sent_is_refused_and_changes_nothing",
            "tests/services/test_push_parts.py::test_swapped_etags_are_refused",
            "tests/services/test_push_parts.py::test_a_part_that_is_listed_and_was_not_sent_is_missing",
            "tests/services/test_push_commit.py::test_concurrent_commits_verify_once",
        ),
    ),
    "T34": Row(
        "encoded bodies",
        (
            f"{_INPUT}test_an_encoded_body_is_unsupported",
            "tests/services/test_push_proxied.py::test_encoded_bodies_are_refused",
            f"{_INTEGRITY}test_nothing_is_unpacked",
        ),
    ),
    "T35": Row(
        "archives that write outside",
        (
            *_PATHS,
            "tests/third_party/test_real_clients.py::test_python_unpacks_an_archive_that_it_does_not_trust",
            "tests/domain/test_values.py::test_an_accepted_path_stays_inside_its_folder",
        ),
        "There is no client of ours yet that would unpack; no path that the service takes leads outside.",
    ),
    "T36": Row(
        "misuse of the Idempotency-Key",
        (
            f"{_INPUT}test_an_idempotency_key_with_another_meaning_is_refused",
            "tests/services/test_registration.py::test_concurrent_requests_with_one_idempotency_key_create_one_version",
        ),
    ),
    "T37": Row(
        "aliases moved at once",
        ("tests/services/test_aliases.py::test_of_forty_moves_from_one_generation_one_is_made",),
    ),
    "T38": Row(
        "aliases that point nowhere",
        (
            "tests/services/test_aliases.py::test_only_a_version_that_is_ready_can_be_the_target",
            "tests/services/test_aliases.py::test_an_alias_never_ends_at_a_version_that_was_removed_meanwhile",
            "tests/services/test_lifecycle.py::test_a_version_that_an_alias_points_at_is_removed_by_force_alone",
        ),
    ),
    "T39": Row("unsigned files beside signed ones", reason="The service signs nothing and checks no signatures."),
    # C. Authentication and authorisation
    **{f"T{number}": Row("tokens and grants", reason=_NO_TOKENS) for number in (*range(40, 52), 57)},
    "T52": Row(
        "a Host that says where to go",
        (
            f"{_REQUESTS}test_an_odd_host_leads_nowhere_else",
            f"{_REQUESTS}test_an_odd_host_is_in_no_address",
            f"{_REQUESTS}test_no_rule_looks_at_the_address_as_a_whole",
            f"{_INPUT}test_a_malformed_message_is_refused",
        ),
    ),
    "T53": Row(
        "a name that leads to us",
        (
            f"{_REQUESTS}test_no_host_but_ours_is_answered_by_any_route",
            f"{_INPUT}test_a_host_that_is_not_ours_is_refused",
        ),
        "ALLOWED_HOSTS is any by default, as the contract has it.",
    ),
    "T54": Row(
        "requests from another site",
        (
            f"{_REQUESTS}test_no_route_takes_json_from_a_page_of_another_site",
            f"{_REQUESTS}test_no_page_of_another_site_changes_anything",
            f"{_REQUESTS}test_no_other_site_is_told_that_it_may",
            f"{_INPUT}test_a_page_of_another_site_can_neither_write_nor_read",
        ),
    ),
    "T55": Row("headers of a proxy that is none", (f"{_REQUESTS}test_what_a_proxy_would_say_is_not_believed",)),
    "T56": Row(
        "a method in a header",
        (
            f"{_REQUESTS}test_a_method_is_what_the_request_line_says",
            f"{_INPUT}test_a_wrong_method_is_a_problem_that_says_which_there_are",
        ),
    ),
    "T58": Row("requests made for others", (f"{_REQUESTS}test_nothing_makes_the_service_fetch",)),
    "T59": Row(
        "signed addresses of another host",
        (
            f"{_REQUESTS}test_every_signed_address_is_of_the_store_and_kept_by_nobody",
            f"{_INPUT}test_a_redirect_goes_where_the_settings_say_whatever_the_host_header",
        ),
    ),
    # D. Denial of service
    "T60": Row(
        "huge headers",
        (
            f"{_DENIAL}test_what_comes_before_a_body_has_at_most_64_kib",
            f"{_DENIAL}test_two_hundred_thousand_headers_are_refused",
            f"{_DENIAL}test_what_is_around_the_chunks_of_a_body_has_a_bound_too",
        ),
    ),
    "T61": Row(
        "slow headers",
        (
            f"{_DENIAL}test_a_request_that_does_not_come_is_not_waited_for",
            f"{_DENIAL}test_a_request_that_comes_byte_by_byte_is_not_waited_for",
            f"{_INPUT}test_a_socket_that_never_finishes_its_headers_is_closed",
        ),
    ),
    "T62": Row(
        "bodies that stall",
        (
            f"{_DENIAL}test_a_body_that_stalls_is_given_up_by_every_route",
            f"{_INPUT}test_a_body_that_stalls_is_given_up",
        ),
    ),
    "T63": Row(
        "stalled connections at a shutdown",
        (
            f"{_DENIAL}test_stalled_connections_do_not_keep_a_process_from_ending",
            "tests/resilience/test_commit_protocol.py::test_a_shutdown_in_mid_upload_is_a_503_that_holds_no_label",
        ),
    ),
    "T64": Row(
        "huge JSON",
        (
            f"{_DENIAL}test_a_json_body_of_200_mb_is_not_read_to_its_end",
            f"{_DENIAL}test_many_json_bodies_at_once_take_no_more_than_their_limit",
            f"{_PUSH_INPUT}test_a_body_that_is_too_large_is_refused",
        ),
    ),
    "T65": Row(
        "deep JSON, long numbers",
        (
            f"{_INPUT}test_more_levels_are_refused_at_once",
            f"{_INPUT}test_levels_that_are_never_closed_are_refused_at_once",
            f"{_INPUT}test_a_value_that_json_or_the_database_cannot_hold_is_named",
            f"{_PUSH_INPUT}test_deep_nesting_is_refused",
        ),
    ),
    "T66": Row(
        "values that PostgreSQL cannot hold",
        (
            f"{_INPUT}test_a_value_that_json_or_the_database_cannot_hold_is_named",
            f"{_PUSH_INPUT}test_a_wrong_file_is_refused",
            f"{_PUSH_INPUT}test_what_is_no_push_is_refused",
        ),
    ),
    "T67": Row(
        "pages without end",
        (f"{_DENIAL}test_a_page_has_a_lawful_size", f"{_INPUT}test_a_forged_page_token_is_refused"),
    ),
    "T68": Row(
        "ranges without end",
        (
            f"{_DENIAL}test_many_ranges_are_no_more_work_than_one",
            f"{_INPUT}test_nonsense_in_a_condition_or_a_range_is_never_our_failure",
        ),
    ),
    "T69": Row(
        "forms",
        (
            f"{_DENIAL}test_no_other_parser_of_forms_is_there",
            f"{_DENIAL}test_a_form_never_becomes_a_file",
            f"{_INPUT}test_what_is_no_form_is_refused",
            f"{_INPUT}test_too_many_parts_are_refused",
            "tests/bounds/test_memory.py::test_a_large_file_goes_in_and_out_in_little_memory_and_without_a_disk",
        ),
    ),
    "T70": Row(
        "SQL in a search",
        (
            f"{_DENIAL}test_a_search_is_never_sql",
            "tests/database/test_search.py::test_what_looks_like_sql_or_a_path_is_a_literal",
            "tests/web/test_search.py::test_nonsense_in_a_search_is_a_422",
        ),
    ),
    "T71": Row("more at once than can be done", reason="Of admission, which has tests of its own."),
    "T72": Row(
        "one request inside another",
        (
            f"{_DENIAL}test_a_body_after_an_upgrade_is_a_body",
            f"{_DENIAL}test_a_body_after_an_upgrade_is_refused_where_the_server_would_lose_it",
            f"{_DENIAL}test_requests_in_a_row_are_all_answered",
            f"{_INPUT}test_a_body_whose_end_is_in_doubt_is_refused",
            f"{_INPUT}test_a_second_request_inside_a_refused_one_is_not_answered",
        ),
    ),
    # E. Content, leakage, supply chain
    "T73": Row("a file that becomes a page", (f"{_LEAKS}test_a_file_is_never_a_page",)),
    "T74": Row(
        "a signed address that becomes a page",
        (
            f"{_LEAKS}test_a_signed_address_gives_no_page_either",
            "tests/services/test_downloads.py::test_a_redirect_leads_to_the_same_bytes_without_credentials",
        ),
    ),
    "T75": Row(
        "headers made of a file's name",
        (
            "tests/services/test_downloads.py::test_a_file_keeps_its_name_whatever_is_in_it",
            f"{_INPUT}test_a_filename_is_taken_literally",
        ),
    ),
    "T76": Row(
        "errors that repeat what they got",
        (
            f"{_LEAKS}test_what_comes_back_in_an_error_is_data",
            f"{_INPUT}test_an_error_speaks_json_and_not_python",
        ),
    ),
    "T77": Row(
        "the pages of the docs",
        (
            f"{_LEAKS}test_a_page_has_a_policy_of_its_own",
            "tests/web/test_docs_pages.py::test_a_page_names_only_what_the_service_serves",
            "tests/web/test_docs_pages.py::test_redoc_comes_without_the_picture_that_it_would_load_from_elsewhere",
        ),
        "They cannot be switched off, and need no token, because there is none.",
    ),
    "T78": Row(
        "secrets in the log",
        (
            f"{_LEAKS}test_no_secret_is_ever_logged",
            f"{_LEAKS}test_a_store_that_takes_no_connection_is_told_of_without_the_signed_url",
            "tests/docs/test_settings.py::test_secrets_are_not_shown",
            "tests/docs/test_settings.py::test_a_complaint_about_an_address_does_not_show_its_password",
            "tests/object_store/test_sigv4.py::test_no_secret_is_shown",
        ),
    ),
    "T79": Row(
        "signed addresses that are kept", (f"{_REQUESTS}test_every_signed_address_is_of_the_store_and_kept_by_nobody",)
    ),
    "T80": Row(
        "access after a removal",
        (
            "tests/object_store/test_sigv4.py::test_a_url_expires",
            "tests/maintenance/test_collector.py::test_a_download_that_began_survives_the_purge",
            "tests/services/test_lifecycle.py::test_a_download_that_has_begun_survives_a_purge",
        ),
    ),
    "T81": Row(
        "internals in errors",
        (
            f"{_LEAKS}test_a_server_that_is_away_is_a_503_that_names_no_internals",
            f"{_LEAKS}test_a_store_that_refuses_us_is_not_a_client_that_may_not",
            "tests/services/test_downloads.py::test_a_lost_object_is_an_error_and_names_no_internals",
        ),
    ),
    "T82": Row("open redirects", (f"{_LEAKS}test_no_redirect_leaves_us_but_to_the_store",)),
    "T83": Row(
        "metrics that grow and tell", (f"{_LEAKS}test_metrics_grow_with_the_routes_and_not_with_what_is_asked",)
    ),
    "T84": Row(
        "files that run",
        (
            f"{_LEAKS}test_the_server_has_nothing_that_runs_what_it_reads",
            f"{_LEAKS}test_a_pickle_stays_what_it_is",
        ),
    ),
    "T85": Row("a scan that scanned nothing", reason=_NO_SCANNERS),
    "T86": Row("malformed safetensors", reason=_NO_SCANNERS),
    "T87": Row("quarantine", reason="There is none; a yank is a hint, and a removal is for everybody."),
    "T88": Row(
        "changes without a trace",
        (
            "tests/services/test_events.py::test_the_log_says_what_happened",
            "tests/services/test_events.py::test_what_was_refused_is_no_event",
            "tests/services/test_events.py::test_events_outlive_their_model",
            "tests/services/test_aliases.py::test_every_change_is_one_event",
        ),
    ),
    "T89": Row(
        "dependencies known to be broken",
        (
            f"{_LEAKS}test_what_we_build_on_is_not_known_to_be_broken",
            f"{_LEAKS}test_what_is_known_to_be_broken_is_not_built_upon",
        ),
    ),
}
