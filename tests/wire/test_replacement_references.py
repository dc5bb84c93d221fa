"""References inside a data set: found and rewritten at every depth, filed under their present study and series."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from archsync.core.uid_map import InstanceUids, UidMap
from archsync.net.dicom.references import find_references, rewrite_references

CT, KOS, DETACHED_STUDY = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.3.1.2.3.1"
A, X, B, Y = "1.2.1", "1.2.1.1", "1.2.2", "1.2.2.1"
FRAME = "1.2.9.9"


def old(number: int) -> InstanceUids:
    return InstanceUids(A, X, f"{X}.{number}")


def moved(number: int) -> InstanceUids:
    return InstanceUids(B, Y, f"2.25.{number}")


WHOLE = UidMap.of([(old(number), moved(number)) for number in range(1, 5)])
"""Series X of study A moved to series Y of study B as a whole."""
SPLIT = UidMap.of([(old(n), moved(n) if n <= 2 else old(n)) for n in range(1, 5)])
"""Images 1 and 2 moved; 3 and 4 stayed."""


def item(**values: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def image(uid: str, **values: object) -> Dataset:
    return item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID=uid, **values)


def images(*numbers: int) -> list[Dataset]:
    return [image(old(number).sop_instance_uid) for number in numbers]


def evidence(*numbers: int) -> list[Dataset]:
    series = item(SeriesInstanceUID=X, RetrieveAETitle="PACS", ReferencedSOPSequence=images(*numbers))
    return [item(StudyInstanceUID=A, ReferencedSeriesSequence=[series])]


def filed(sequence: list[Dataset]) -> list[tuple[str, str, list[str]]]:
    return [
        (study.StudyInstanceUID, series.SeriesInstanceUID, [i.ReferencedSOPInstanceUID for i in references(series)])
        for study in sequence
        for series in study.ReferencedSeriesSequence
    ]


def references(series: Dataset) -> list[Dataset]:
    return series.get("ReferencedSOPSequence") or series.get("ReferencedInstanceSequence")


def note(*numbers: int) -> Dataset:
    """A Key Object Selection that lies in study A and is not itself replaced."""
    content = [
        item(RelationshipType="CONTAINS", ValueType="IMAGE", ReferencedSOPSequence=[i]) for i in images(*numbers)
    ]
    return item(
        SOPClassUID=KOS, SOPInstanceUID="1.2.1.9.1", StudyInstanceUID=A, SeriesInstanceUID="1.2.1.9",
        CurrentRequestedProcedureEvidenceSequence=evidence(*numbers), ContentSequence=content,
    )  # fmt: skip


def content_references(dataset: Dataset) -> list[str]:
    return [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in dataset.ContentSequence]


def encoded(dataset: Dataset, *, implicit: bool = False) -> Dataset:
    """The data set as it comes out of a file: undecoded, with unknown private elements in implicit VR."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID("1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1")
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(CT), UID("1.2.3")
    dataset.file_meta = meta
    buffer = BytesIO()
    dcmwrite(buffer, dataset, implicit_vr=implicit, little_endian=True, enforce_file_format=True)
    buffer.seek(0)
    return dcmread(buffer)


def all_uids(dataset: Dataset) -> Iterator[str]:
    for element in dataset:
        if element.VR == "SQ":
            for child in element.value:
                yield from all_uids(child)
        elif element.VR == "UI":
            yield from [str(element.value)] if element.VM == 1 else map(str, element.value)


# -- filed by study and series ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("from_file", [False, True], ids=["built", "read"])
def test_a_key_object_follows_a_series_that_moved(from_file: bool) -> None:
    dataset = encoded(note(1, 2, 3)) if from_file else note(1, 2, 3)
    rewrite_references(dataset, WHOLE)
    assert filed(dataset.CurrentRequestedProcedureEvidenceSequence) == [(B, Y, ["2.25.1", "2.25.2", "2.25.3"])]
    assert content_references(dataset) == ["2.25.1", "2.25.2", "2.25.3"]
    assert (dataset.StudyInstanceUID, dataset.SOPInstanceUID) == (A, "1.2.1.9.1")


@pytest.mark.parametrize("from_file", [False, True], ids=["built", "read"])
def test_the_evidence_of_a_split_series_is_split_with_it(from_file: bool) -> None:
    dataset = encoded(note(1, 3, 2)) if from_file else note(1, 3, 2)
    rewrite_references(dataset, SPLIT)
    evidence = dataset.CurrentRequestedProcedureEvidenceSequence
    assert sorted(filed(evidence)) == [(A, X, [old(3).sop_instance_uid]), (B, Y, ["2.25.1", "2.25.2"])]
    assert {series.RetrieveAETitle for study in evidence for series in study.ReferencedSeriesSequence} == {"PACS"}
    assert content_references(dataset) == ["2.25.1", old(3).sop_instance_uid, "2.25.2"]


def test_an_image_that_the_map_does_not_know_stays_where_it_is() -> None:
    dataset = note(1, 7)
    rewrite_references(dataset, WHOLE)
    assert sorted(filed(dataset.CurrentRequestedProcedureEvidenceSequence)) == [
        (A, X, [f"{X}.7"]), (B, Y, ["2.25.1"]),
    ]  # fmt: skip


def test_references_that_meet_in_one_study_and_series_share_its_item() -> None:
    dataset = note(1)
    present = item(SeriesInstanceUID=Y, ReferencedSOPSequence=[image("1.2.2.1.50")])
    dataset.CurrentRequestedProcedureEvidenceSequence.append(
        item(StudyInstanceUID=B, ReferencedSeriesSequence=[present])
    )
    rewrite_references(dataset, WHOLE)
    assert filed(dataset.CurrentRequestedProcedureEvidenceSequence) == [(B, Y, ["2.25.1", "1.2.2.1.50"])]


@given(st.lists(st.integers(1, 12), unique=True, min_size=1, max_size=12), st.sets(st.integers(1, 12)))
def test_evidence_names_the_same_images_as_the_content_however_a_series_is_split(
    numbers: list[int], movers: set[int]
) -> None:
    uid_map = UidMap.of([(old(n), moved(n) if n in movers else old(n)) for n in range(1, 13)])
    dataset = note(*numbers)
    rewrite_references(dataset, uid_map)
    found = filed(dataset.CurrentRequestedProcedureEvidenceSequence)
    assert sorted(uid for *_, uids in found for uid in uids) == sorted(content_references(dataset))
    for study, series, uids in found:
        assert {(study, series)} == {(B, Y) if uid.startswith("2.25.") else (A, X) for uid in uids}
    assert len({(study, series) for study, series, _ in found}) == len(found)
    again = dataset.to_json()
    rewrite_references(dataset, uid_map)
    assert dataset.to_json() == again


@pytest.mark.parametrize("knows_where_from", [True, False])
def test_evidence_follows_images_that_moved_before_they_were_sent_and_keep_their_uids(knows_where_from: bool) -> None:
    here = {n: InstanceUids(B, X, old(n).sop_instance_uid) for n in (1, 2)}
    uid_map = UidMap.of([(old(n) if knows_where_from else here[n], here[n]) for n in (1, 2)])
    dataset = encoded(note(1, 2))
    own = InstanceUids(B, "1.2.2.8", dataset.SOPInstanceUID)
    report = rewrite_references(dataset, uid_map, own=own)
    assert filed(dataset.CurrentRequestedProcedureEvidenceSequence) == [
        (B, X, [old(1).sop_instance_uid, old(2).sop_instance_uid])
    ]
    assert (dataset.StudyInstanceUID, dataset.SeriesInstanceUID) == (B, "1.2.2.8")
    assert report.left == []
    again = dataset.to_json()
    assert rewrite_references(dataset, uid_map, own=own).changed == 0
    assert dataset.to_json() == again


def test_evidence_is_split_when_an_image_moved_that_keeps_its_uid() -> None:
    uid_map = UidMap.of([(old(1), InstanceUids(B, Y, old(1).sop_instance_uid)), (old(2), old(2))])
    dataset = encoded(note(1, 2))
    rewrite_references(dataset, uid_map)
    assert filed(dataset.CurrentRequestedProcedureEvidenceSequence) == [
        (B, Y, [old(1).sop_instance_uid]), (A, X, [old(2).sop_instance_uid]),
    ]  # fmt: skip


# -- kinds of objects ------------------------------------------------------------------------------------------------


def test_a_presentation_state_is_replaced_together_with_its_images() -> None:
    own = InstanceUids(A, "1.2.1.8", "1.2.1.8.1")
    state = item(
        SOPInstanceUID=own.sop_instance_uid, SeriesInstanceUID=own.series_instance_uid, StudyInstanceUID=A,
        ReferencedSeriesSequence=[item(SeriesInstanceUID=X, ReferencedImageSequence=images(1, 2))],
        GraphicAnnotationSequence=[item(ReferencedImageSequence=images(2), GraphicLayer="L")],
        DisplayedAreaSelectionSequence=[item(ReferencedImageSequence=images(1))],
    )  # fmt: skip
    rewrite_references(state, WHOLE.merge(UidMap.of([(own, InstanceUids(B, "1.2.2.8", "2.25.81"))])))
    assert (state.StudyInstanceUID, state.SeriesInstanceUID, state.SOPInstanceUID) == (B, "1.2.2.8", "2.25.81")
    (series,) = state.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == Y
    assert find_references(state) == {"2.25.1", "2.25.2"}
    assert state.GraphicAnnotationSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID == "2.25.2"


def test_a_report_is_followed_into_its_content_tree() -> None:
    measured = item(ValueType="NUM", ContentSequence=[item(ValueType="IMAGE", ReferencedSOPSequence=images(3))])
    source_series = item(ValueType="UIDREF", UID=X)
    report = item(
        SOPInstanceUID="1.2.5", StudyInstanceUID=A,
        ContentSequence=[item(ValueType="CONTAINER", ContentSequence=[measured, source_series])],
        PertinentOtherEvidenceSequence=evidence(3), PredecessorDocumentsSequence=evidence(4),
    )  # fmt: skip
    rewrite_references(report, WHOLE)
    assert find_references(report) == {"2.25.3", "2.25.4"}
    assert report.ContentSequence[0].ContentSequence[1].UID == Y
    assert filed(report.PredecessorDocumentsSequence) == [(B, Y, ["2.25.4"])]


def segmentation(study: str = A) -> Dataset:
    frame = item(DerivationImageSequence=[item(SourceImageSequence=images(1))])
    return item(
        SOPInstanceUID=f"{A}.7.1", SeriesInstanceUID=f"{A}.7", StudyInstanceUID=study, FrameOfReferenceUID=FRAME,
        ReferencedSeriesSequence=[item(SeriesInstanceUID=X, ReferencedInstanceSequence=images(1, 3))],
        PerFrameFunctionalGroupsSequence=[frame, frame],
    )  # fmt: skip


@pytest.mark.parametrize("from_file", [False, True], ids=["built", "read"])
def test_images_that_leave_the_segmentations_study_are_filed_under_theirs(from_file: bool) -> None:
    dataset = encoded(segmentation()) if from_file else segmentation()
    rewrite_references(dataset, SPLIT)
    (stayed,) = dataset.ReferencedSeriesSequence
    assert (stayed.SeriesInstanceUID, [r.ReferencedSOPInstanceUID for r in references(stayed)]) == (X, [f"{X}.3"])
    assert filed(dataset.StudiesContainingOtherReferencedInstancesSequence) == [(B, Y, ["2.25.1"])]
    assert find_references(dataset) == {"2.25.1", f"{X}.3"}


@pytest.mark.parametrize("from_file", [False, True], ids=["built", "read"])
def test_images_that_a_moved_segmentation_leaves_behind_are_filed_under_theirs(from_file: bool) -> None:
    own = (InstanceUids(A, f"{A}.7", f"{A}.7.1"), InstanceUids(B, f"{B}.7", "2.25.71"))
    there = encoded(segmentation()) if from_file else segmentation()
    rewrite_references(there, UidMap.of([own]))
    assert "ReferencedSeriesSequence" not in there
    assert filed(there.StudiesContainingOtherReferencedInstancesSequence) == [(A, X, [f"{X}.1", f"{X}.3"])]
    # and when the images come after
    rewrite_references(there, WHOLE)
    assert "StudiesContainingOtherReferencedInstancesSequence" not in there
    (series,) = there.ReferencedSeriesSequence
    assert (series.SeriesInstanceUID, len(references(series))) == (Y, 2)


def structure_set() -> Dataset:
    series = item(SeriesInstanceUID=X, ContourImageSequence=images(1, 2))
    study = item(ReferencedSOPClassUID=DETACHED_STUDY, ReferencedSOPInstanceUID=A, RTReferencedSeriesSequence=[series])
    contour = item(ContourImageSequence=images(2), ContourGeometricType="POINT")
    return item(
        SOPInstanceUID="1.2.6", StudyInstanceUID=A,
        ReferencedFrameOfReferenceSequence=[item(FrameOfReferenceUID=A, RTReferencedStudySequence=[study])],
        ROIContourSequence=[item(ContourSequence=[contour])],
        StructureSetROISequence=[item(ReferencedFrameOfReferenceUID=X)],
    )  # fmt: skip


def test_a_structure_set_keeps_its_frames_of_reference_even_if_they_equal_an_old_uid() -> None:
    dataset = structure_set()
    rewrite_references(dataset, WHOLE)
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (series,) = study.RTReferencedSeriesSequence
    assert (frame.FrameOfReferenceUID, study.ReferencedSOPInstanceUID, series.SeriesInstanceUID) == (A, B, Y)
    assert study.ReferencedSOPClassUID == DETACHED_STUDY
    assert dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID == X
    assert find_references(dataset) == {"2.25.1", "2.25.2"}


def test_a_structure_set_over_a_split_series_names_both_studies() -> None:
    dataset = structure_set()
    uid_map = UidMap.of([(old(1), moved(1)), (old(2), old(2))])
    rewrite_references(dataset, uid_map)
    studies = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    assert sorted(
        (s.ReferencedSOPInstanceUID, s.RTReferencedSeriesSequence[0].SeriesInstanceUID,
         s.RTReferencedSeriesSequence[0].ContourImageSequence[0].ReferencedSOPInstanceUID)
        for s in studies
    ) == [(A, X, f"{X}.2"), (B, Y, "2.25.1")]  # fmt: skip


# -- odd places ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implicit", [False, True], ids=["explicit", "implicit"])
def test_private_sequences_and_values_are_rewritten_and_binary_headers_reported(implicit: bool) -> None:
    dataset = item(SOPInstanceUID="1.2.5", StudyInstanceUID=A)
    block = dataset.private_block(0x0029, "VENDOR", create=True)
    block.add_new(1, "UI", f"{X}.1")
    block.add_new(2, "SQ", [image(f"{X}.2", TextValue="kept")])
    block.add_new(3, "OB", b"CSA\0" + f"{X}.3".encode() + b"\0" * 3)
    dataset = encoded(dataset, implicit=implicit)
    report = rewrite_references(dataset, WHOLE)
    value = dataset[0x00291001].value
    assert (value if isinstance(value, str) else value.rstrip(b"\0").decode()) == "2.25.1"
    (child,) = dataset[0x00291002].value
    assert (child.ReferencedSOPInstanceUID, child.TextValue) == ("2.25.2", "kept")
    assert f"{X}.3".encode() in dataset[0x00291003].value
    assert report.left == ["(0029,1003)"]


def test_an_unknown_value_that_only_looks_like_a_sequence_stays() -> None:
    dataset = item(SOPInstanceUID="1.2.5")
    blob = b"\xfe\xff\x00\xe0\xff\xff\x00\x00" + f"{X}.1 ".encode() + b"\x01\x02"
    dataset.private_block(0x0029, "VENDOR", create=True).add_new(1, "UN", blob)
    dataset = encoded(dataset)
    assert rewrite_references(dataset, WHOLE).left == ["(0029,1001)"]
    assert dataset[0x00291001].value == blob


def test_a_retrieve_url_of_a_replaced_object_is_removed_and_another_kept() -> None:
    dataset = note(1)
    (study,) = dataset.CurrentRequestedProcedureEvidenceSequence
    study.RetrieveURL = f"https://pacs.example/studies/{A}/series/{X}"
    study.ReferencedSeriesSequence[0].RetrieveURL = "https://pacs.example/studies/1.2.77"
    rewrite_references(dataset, WHOLE)
    (study,) = dataset.CurrentRequestedProcedureEvidenceSequence
    assert "RetrieveURL" not in study
    assert study.ReferencedSeriesSequence[0].RetrieveURL == "https://pacs.example/studies/1.2.77"


def test_history_is_not_rewritten() -> None:
    former = item(ModifiedAttributesSequence=[item(SOPInstanceUID=f"{X}.1", SourceImageSequence=images(2))])
    dataset = item(SOPInstanceUID="1.2.5", OriginalAttributesSequence=[former])
    assert rewrite_references(dataset, WHOLE).changed == 0
    assert find_references(dataset) == set()
    assert dataset.OriginalAttributesSequence[0].ModifiedAttributesSequence[0].SOPInstanceUID == f"{X}.1"


def test_an_item_that_names_an_instance_with_its_series_and_study_is_set_as_a_whole() -> None:
    flat = image(f"{X}.1", SeriesInstanceUID=X, StudyInstanceUID=A)
    dataset = item(SOPInstanceUID="1.2.5", ReferencedInstanceSequence=[flat])
    rewrite_references(dataset, SPLIT)
    (flat,) = dataset.ReferencedInstanceSequence
    assert (flat.StudyInstanceUID, flat.SeriesInstanceUID, flat.ReferencedSOPInstanceUID) == (B, Y, "2.25.1")


def test_a_longer_uid_that_begins_like_an_old_one_stays() -> None:
    dataset = item(SOPInstanceUID="1.2.5", SourceImageSequence=[image(f"{X}.1.7"), image(f"{X}.11")])
    assert rewrite_references(dataset, WHOLE).changed == 0
    assert find_references(dataset) == {f"{X}.1.7", f"{X}.11"}


def test_references_to_studies_and_steps_are_no_references_to_instances() -> None:
    dataset = item(
        SOPInstanceUID="1.2.5", ReferencedStudySequence=[image(A)], SourceImageSequence=images(1),
        ReferencedPerformedProcedureStepSequence=[image("1.2.8")],
    )  # fmt: skip
    assert find_references(dataset) == {f"{X}.1"}


# -- any nesting -----------------------------------------------------------------------------------------------------

SEQUENCES = ["SourceImageSequence", "ContentSequence", "ReferencedImageSequence", "DerivationImageSequence",
             "PerFrameFunctionalGroupsSequence", "ReferencedInstanceSequence"]  # fmt: skip
leaves = st.builds(lambda number: image(f"{X}.{number}"), st.integers(1, 4))
trees = st.recursive(
    leaves,
    lambda children: st.builds(
        lambda keyword, inner: item(**{keyword: inner, "FrameOfReferenceUID": X}),
        st.sampled_from(SEQUENCES),
        st.lists(children, min_size=1, max_size=3),
    ),
    max_leaves=12,
)


@given(st.lists(trees, max_size=3), st.booleans(), st.booleans())
def test_no_old_uid_is_left_at_any_depth(children: list[Dataset], from_file: bool, implicit: bool) -> None:
    dataset = item(SOPClassUID=CT, SOPInstanceUID="1.2.5", ContentSequence=children)
    if from_file:
        dataset = encoded(dataset, implicit=implicit)
    before = find_references(dataset)
    report = rewrite_references(dataset, WHOLE)
    assert find_references(dataset) == {WHOLE.find(uid) for uid in before}
    assert not WHOLE.replaced & set(all_uids(dataset))
    assert bool(before) == bool(report.changed)
    assert report.left == []
    rewrite_references(dataset, WHOLE.inverse())
    assert find_references(dataset) == before
