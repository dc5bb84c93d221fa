"""C-STORE statuses: each row of PS3.4 Table B.2-1, PS3.7 Annex C and dcm4chee's codes, and the edges of each range."""

import pytest

from archsync.core.transfer import StoreResult
from archsync.messages.store_status import STATUS_TABLE, describe_store_status, explain_store_status

STORED, WARNING, REFUSED = StoreResult.STORED, StoreResult.WARNING, StoreResult.REFUSED
BUSY, LIMITED, STOP = StoreResult.BUSY, StoreResult.LIMITED, StoreResult.STOP


@pytest.mark.parametrize(
    ("status", "result", "code"),
    [
        (0x0000, STORED, "stored"),
        (0x0110, LIMITED, "processing-failure"),
        (0x0111, WARNING, "duplicate-instance"),
        (0x0117, REFUSED, "invalid-instance-uid"),
        (0x0120, REFUSED, "missing-attribute"),
        (0x0121, REFUSED, "missing-attribute-value"),
        (0x0122, REFUSED, "sop-class-not-supported"),
        (0x0124, STOP, "not-authorized"),
        (0x0210, BUSY, "duplicate-invocation"),
        (0x0211, REFUSED, "unrecognized-operation"),
        (0x0212, REFUSED, "mistyped-argument"),
        (0x0213, BUSY, "resource-limitation"),
        (0xA700, BUSY, "out-of-resources"),
        (0xA76F, BUSY, "out-of-resources"),
        (0xA770, REFUSED, "different-object-same-uid"),
        (0xA771, REFUSED, "instance-rejected-there"),
        (0xA772, REFUSED, "note-names-unknown-instance"),
        (0xA773, REFUSED, "class-instance-conflict"),
        (0xA774, REFUSED, "rejected-under-other-title"),
        (0xA775, REFUSED, "retention-not-allowed"),
        (0xA776, REFUSED, "retention-not-allowed"),
        (0xA777, REFUSED, "patient-differs"),
        (0xA779, REFUSED, "patient-differs"),
        (0xA77A, BUSY, "study-being-deleted"),
        (0xA77B, REFUSED, "instance-in-other-study"),
        (0xA77C, BUSY, "out-of-resources"),
        (0xA7FF, BUSY, "out-of-resources"),
        (0xA900, REFUSED, "sop-class-mismatch"),
        (0xA9FF, REFUSED, "sop-class-mismatch"),
        (0xB000, WARNING, "stored-coerced"),
        (0xB001, WARNING, "stored-with-warning"),
        (0xB006, WARNING, "stored-elements-discarded"),
        (0xB007, WARNING, "stored-sop-class-mismatch"),
        (0xBFFF, WARNING, "stored-with-warning"),
        (0xC000, REFUSED, "cannot-understand"),
        (0xCFFF, REFUSED, "cannot-understand"),
    ],
)
def test_a_status_of_the_standard_has_its_class_and_code(status, result, code):
    meaning = explain_store_status(status)
    assert (meaning.result, meaning.code) == (result, code)


@pytest.mark.parametrize("status", [0x0001, 0x0112, 0x0214, 0xA600, 0xA800, 0xA8FF, 0xAA00, 0xD000, 0xFE00, 0xFF00])
def test_a_status_outside_all_ranges_is_tried_a_few_times(status):
    assert explain_store_status(status).result is LIMITED


def test_no_answer_leaves_the_outcome_unknown():
    meaning = explain_store_status(None)
    assert (meaning.result, meaning.code) == (StoreResult.UNKNOWN, "outcome-unknown")


def test_only_success_warnings_and_duplicates_count_as_held():
    held = {status for status in range(0x10000) if explain_store_status(status).result.is_stored}
    assert held == {0x0000, 0x0111, *range(0xB000, 0xC000)}


def test_every_row_can_be_reached_and_tells_what_to_do():
    reached = {explain_store_status(status) for status in range(0x10000)}
    assert reached >= set(STATUS_TABLE)
    assert all(row.message and row.next_step and row.clause for row in STATUS_TABLE)


def test_the_sentence_shows_the_status_as_archives_log_it():
    assert describe_store_status(0xA700).endswith("(status A700)")
    assert describe_store_status(0x0124).endswith("(status 0124)")
