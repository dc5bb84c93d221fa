"""What a file says of its patient against what the platform says: what differs, and what only looks so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.charset import convert_encodings
from pydicom.valuerep import PersonName

from archsync.core.study import Patient
from archsync.net.dicom.part10 import read_facts
from archsync.net.dicom.patient_header import PatientHeader

PATIENT = Patient("p-1", "PID-1", "HOSP", "Doe^Jane", date(1961, 2, 3), "F")
HEADER = PatientHeader(
    character_set=b"ISO_IR 100", name=b"Doe^Jane", patient_id=b"PID-1 ", issuer_of_patient_id=b"HOSP",
    birth_date=b"19610203", sex=b"F ",
)  # fmt: skip


def header_with_name(name: str, character_set: str) -> PatientHeader:
    encoded = PersonName(name).encode(convert_encodings(character_set.split("\\")))
    return replace(HEADER, name=encoded, character_set=character_set.encode())


def test_a_header_is_of_the_patient_it_names() -> None:
    assert HEADER.is_of(PATIENT)


@pytest.mark.parametrize(
    "header",
    [
        replace(HEADER, patient_id=b"PID-10"),
        replace(HEADER, patient_id=b""),
        replace(HEADER, issuer_of_patient_id=b"OTHER"),
        replace(HEADER, name=b"DOE^JANE"),
        replace(HEADER, name=b"Doe^Jane^Q"),
        replace(HEADER, name=b"Doe^Jane=D^J"),
        replace(HEADER, name=b""),
        replace(HEADER, birth_date=b"19610204"),
        replace(HEADER, birth_date=b""),
        replace(HEADER, sex=b"O"),
        replace(HEADER, sex=b""),
    ],
    ids=repr,
)
def test_a_header_that_says_otherwise_is_not(header: PatientHeader) -> None:
    assert not header.is_of(PATIENT)


@pytest.mark.parametrize("name", [b"Doe^Jane^^^", b"Doe^Jane ", b"Doe^Jane^ ^==", b" Doe^Jane\0", b"Doe^Jane^^ =^^=^"])
def test_what_is_not_significant_in_a_name_makes_no_difference(name: bytes) -> None:
    assert replace(HEADER, name=name).is_of(PATIENT)
    assert HEADER.is_of(replace(PATIENT, name=name.decode().strip("\0")))


def test_an_issuer_that_either_side_leaves_out_makes_no_difference() -> None:
    assert replace(HEADER, issuer_of_patient_id=b"").is_of(PATIENT)
    assert HEADER.is_of(replace(PATIENT, issuer_of_patient_id=None))


def test_what_the_platform_does_not_know_is_not_compared() -> None:
    header = replace(HEADER, birth_date=b"19991231", sex=b"M", name=b"Roe^Richard")
    assert header.is_of(replace(PATIENT, birth_date=None, sex=None, name=""))
    assert not header.is_of(replace(PATIENT, birth_date=None, sex=None))


@pytest.mark.parametrize(
    ("name", "character_set"),
    [
        ("Müller^Jörg", "ISO_IR 100"),
        ("Müller^Jörg", "ISO_IR 192"),
        ("Иванов^Иван", "ISO_IR 144"),
        ("Wang^XiaoDong=王^小东", "GB18030"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "\\ISO 2022 IR 87"),
        ("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", "ISO 2022 IR 13\\ISO 2022 IR 87"),
        ("Hong^Gildong=洪^吉洞=홍^길동", "\\ISO 2022 IR 149"),
    ],
)
def test_names_are_compared_as_the_files_character_set_has_them(name: str, character_set: str) -> None:
    header = header_with_name(name, character_set)
    assert header.is_of(replace(PATIENT, name=name))
    assert not header.is_of(replace(PATIENT, name=name[:-1]))


@pytest.mark.parametrize(
    ("name", "character_set"),
    [
        ("Müller^Jörg".encode("latin-1"), b"ISO_IR 192"),  # no UTF-8
        ("Müller^Jörg".encode("latin-1"), b""),  # the default repertoire is ASCII
        ("Müller^Jörg".encode("latin-1"), b"ISO_IR 999"),  # unknown
        (b"M\xc3", b"ISO_IR 192"),
    ],
)
def test_a_name_that_is_not_in_the_set_it_claims_differs_from_every_name(name: bytes, character_set: bytes) -> None:
    header = replace(HEADER, name=name, character_set=character_set)
    for guess in ("latin-1", "utf-8", "ascii"):
        assert not header.is_of(replace(PATIENT, name=name.decode(guess, "replace")))


@pytest.mark.parametrize(
    "name",
    ["CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "JPEG2000.dcm", "badVR.dcm"],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_the_patient_of_a_file_is_read_in_every_encoding(sample: Callable[[str], Path], name: str) -> None:
    said = dcmread(sample(name), stop_before_pixels=True)
    header = read_facts(sample(name), sop_instance_uid="1.2").patient
    born = str(said.get("PatientBirthDate") or "")
    patient = Patient(
        "p", str(said.get("PatientID") or ""), None, str(said.PatientName),
        date.fromisoformat(born) if born else None, said.get("PatientSex"),
    )  # fmt: skip
    assert header.is_of(patient)
    assert not header.is_of(replace(patient, patient_id=f"{patient.patient_id}0"))
    assert not header.is_of(replace(patient, name=f"{patient.name}x"))


def test_a_file_that_only_a_tolerant_reader_understands_tells_its_patient_too(
    sample: Callable[[str], Path], tmp_path: Path
) -> None:
    content = sample("CT_small.dcm").read_bytes()
    path = tmp_path / "odd.dcm"
    place = content.index(b"\x10\x00\x10\x10AS")  # Patient's Age gets a VR that does not exist
    path.write_bytes(content[: place + 4] + b"??" + content[place + 6 :])
    assert (
        read_facts(path, sop_instance_uid="1.2").patient
        == read_facts(sample("CT_small.dcm"), sop_instance_uid="1.2").patient
    )
    assert read_facts(path, sop_instance_uid="1.2").patient.is_of(Patient("p", "1CT1", None, "CompressedSamples^CT1"))


def test_nothing_of_the_patient_is_shown() -> None:
    assert "Doe" not in repr(HEADER)
    assert "PID-1" not in repr(HEADER)
