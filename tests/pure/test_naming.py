"""The names that tie jobs to Airflow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsync.core.destination import check_ae_title, check_name
from archsync.core.job import JobType
from archsync.core.naming import (
    DISPATCH_DAG_ID,
    MAINTAIN_DAG_ID,
    PEERS,
    DagKind,
    dag_id,
    dag_kind,
    parse_dag_id,
    peer_of,
    pool_name,
)

names = st.from_regex(r"[a-z][a-z0-9_]{0,39}", fullmatch=True)


@given(st.sampled_from(DagKind), names)
def test_a_dag_id_says_its_kind_and_destination(kind, destination):
    assert check_name(destination) is None
    assert parse_dag_id(dag_id(kind, destination)) == (kind, destination)


@given(st.text())
def test_no_other_text_is_taken_for_a_dag_of_ours(text):
    parsed = parse_dag_id(text)

    assert parsed is None or dag_id(*parsed) == text


@pytest.mark.parametrize(
    "other",
    [DISPATCH_DAG_ID, MAINTAIN_DAG_ID, "", "archsync_archive", "archsync_archive__", "archsync_other__vna", "my_dag"],
)
def test_other_dags_are_not_a_destinations(other):
    assert parse_dag_id(other) is None


@given(st.lists(st.tuples(st.sampled_from(DagKind), names), unique=True))
def test_no_two_destinations_share_a_dag_id(pairs):
    assert len({dag_id(*pair) for pair in pairs}) == len(pairs)


@given(st.lists(names, unique=True))
def test_no_two_peers_share_a_pool(destinations):
    # A destination may be called what another one's ADT pool would be called.
    destinations += [f"{name}_adt" for name in destinations if f"{name}_adt" not in destinations]

    assert len({pool_name(peer, name) for name in destinations for peer in PEERS}) == len(PEERS) * len(destinations)


def test_images_and_rejection_notes_go_to_the_same_peer_and_adt_messages_to_another():
    assert peer_of(DagKind.ARCHIVE) is peer_of(DagKind.IOCM)
    assert peer_of(DagKind.ADT) is not peer_of(DagKind.ARCHIVE)


@pytest.mark.parametrize("job_type", JobType)
def test_every_job_type_has_a_dag(job_type):
    assert dag_kind(job_type) in DagKind


@pytest.mark.parametrize("name", ["", "VNA", "1vna", "vna-1", "vna 1", "a" * 41, "vna\n", "vná"])
def test_a_name_that_would_not_make_a_dag_id_is_refused(name):
    assert check_name(name)


@pytest.mark.parametrize("title", ["A", "A" * 16, "VNA 1", "vna-1_@"])
def test_ae_titles_of_the_standard_are_taken(title):
    assert check_ae_title(title) is None


@pytest.mark.parametrize("title", ["", "   ", "A" * 17, "A\\B", "VNÄ", "A\tB", "A\nB"])
def test_other_ae_titles_are_refused_with_the_reason(title):
    assert check_ae_title(title)
