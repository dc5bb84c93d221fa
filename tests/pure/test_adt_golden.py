"""The messages byte for byte: A08 and A40 in 2.3.1 and 2.5.1, three character sets, names full of delimiters."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta, timezone

import pytest

from archsync.core.adt import AdtSettings, CharacterSet, Hl7Version
from archsync.core.study import Facility, Patient
from archsync.messages.adt import build_a08, build_a40, validate

PARIS = timezone(timedelta(hours=1))
RECORDED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=PARIS)
OCCURRED_AT = datetime(2026, 1, 2, 3, 4, 0, tzinfo=PARIS)
CITY = Facility("CITY", "City Hospital", "NORTH", "HOSP", "1.2.3.4", "ISO", "SITE")

NAMES = {
    "apostrophe": "O'Brien^John^Q^Dr^Jr",
    "umlauts": "Müller^Jürgen",
    "groups": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "delimiters": "A|B&C~D\\F\\E^x\\^y\r\nz",
    "delimiters in ASCII": "O'A|B&C^D~E\\F",
    "delimiters in Latin-1": "d'Été|&~^Zoë\\T\\",
}
SETS = {
    "apostrophe": CharacterSet.ASCII,
    "umlauts": CharacterSet.LATIN_1,
    "groups": CharacterSet.UTF_8,
    "delimiters": CharacterSet.UTF_8,
    "delimiters in ASCII": CharacterSet.ASCII,
    "delimiters in Latin-1": CharacterSet.LATIN_1,
}


def build(trigger: str, version: Hl7Version, name: str) -> bytes:
    patient = Patient("key-1", "12345", None, NAMES[name], date(1970, 1, 1), "M")
    settings = AdtSettings(receiving_application="VNA", version=version, character_set=SETS[name])
    when = {"occurred_at": OCCURRED_AT, "recorded_at": RECORDED_AT}
    if trigger == "A08":
        return build_a08(patient, CITY, settings, change_id="message-1", **when)
    return build_a40(patient, CITY, replace(patient, patient_id="OLD&1"), settings, change_id="message-2", **when)


GOLDEN: dict[tuple[str, Hl7Version, str], bytes] = {
    ("A08", Hl7Version.V2_3_1, "apostrophe"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A08^ADT_A01|IEYHEDQDJ3IK5ZOCHNYA|P|2.3.1\r"
        b"EVN|A08|20260102030405+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||O'Brien^John^Q^Jr^Dr||19700101|M\r"
        b"PV1||N\r"
    ),
    ("A08", Hl7Version.V2_3_1, "umlauts"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A08^ADT_A01|IEYHEDQDJ3IK5ZOCHNYA|P|2.3.1||||||"
        b"8859/1\r"
        b"EVN|A08|20260102030405+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||M\xfcller^J\xfcrgen||19700101|M\r"
        b"PV1||N\r"
    ),
    ("A08", Hl7Version.V2_3_1, "groups"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A08^ADT_A01|IEYHEDQDJ3IK5ZOCHNYA|P|2.3.1||||||"
        b"UNICODE UTF-8\r"
        b"EVN|A08|20260102030405+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||Yamada^Tarou^^^^^^A~"
        b"\xe5\xb1\xb1\xe7\x94\xb0^\xe5\xa4\xaa\xe9\x83\x8e^^^^^^I~"
        b"\xe3\x82\x84\xe3\x81\xbe\xe3\x81\xa0^\xe3\x81\x9f\xe3\x82\x8d\xe3\x81\x86^^^^^^P||19700101|M\r"
        b"PV1||N\r"
    ),
    ("A08", Hl7Version.V2_3_1, "delimiters"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A08^ADT_A01|IEYHEDQDJ3IK5ZOCHNYA|P|2.3.1||||||"
        b"UNICODE UTF-8\r"
        b"EVN|A08|20260102030405+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||A\\F\\B\\T\\C\\R\\D\\E\\F\\E\\E^x\\E\\^y\\.br\\z||19700101|M\r"
        b"PV1||N\r"
    ),
    ("A08", Hl7Version.V2_5_1, "apostrophe"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A08^ADT_A01|IEYHEDQDJ3IK5ZOCHNYA|P|2.5.1\r"
        b"EVN||20260102030405+0100||||20260102030400+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||O'Brien^John^Q^Jr^Dr||19700101|M|||||||||||||||||||||||||"
        b"20260102030400+0100\r"
        b"PV1||N\r"
    ),
    ("A08", Hl7Version.V2_5_1, "umlauts"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A08^ADT_A01|IEYHEDQDJ3IK5ZOCHNYA|P|2.5.1||||||"
        b"8859/1\r"
        b"EVN||20260102030405+0100||||20260102030400+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||M\xfcller^J\xfcrgen||19700101|M|||||||||||||||||||||||||"
        b"20260102030400+0100\r"
        b"PV1||N\r"
    ),
    ("A08", Hl7Version.V2_5_1, "groups"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A08^ADT_A01|IEYHEDQDJ3IK5ZOCHNYA|P|2.5.1||||||"
        b"UNICODE UTF-8\r"
        b"EVN||20260102030405+0100||||20260102030400+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||Yamada^Tarou^^^^^^A~"
        b"\xe5\xb1\xb1\xe7\x94\xb0^\xe5\xa4\xaa\xe9\x83\x8e^^^^^^I~"
        b"\xe3\x82\x84\xe3\x81\xbe\xe3\x81\xa0^\xe3\x81\x9f\xe3\x82\x8d\xe3\x81\x86^^^^^^P||19700101|M|||||||||||||"
        b"||||||||||||20260102030400+0100\r"
        b"PV1||N\r"
    ),
    ("A08", Hl7Version.V2_5_1, "delimiters"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A08^ADT_A01|IEYHEDQDJ3IK5ZOCHNYA|P|2.5.1||||||"
        b"UNICODE UTF-8\r"
        b"EVN||20260102030405+0100||||20260102030400+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||A\\F\\B\\T\\C\\R\\D\\E\\F\\E\\E^x\\E\\^y\\.br\\z||19700101|M||||||||||"
        b"|||||||||||||||20260102030400+0100\r"
        b"PV1||N\r"
    ),
    ("A40", Hl7Version.V2_3_1, "apostrophe"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A40^ADT_A39|J2OY22THMZNVL64KTEEA|P|2.3.1\r"
        b"EVN|A40|20260102030405+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||O'Brien^John^Q^Jr^Dr||19700101|M\r"
        b"MRG|OLD\\T\\1^^^HOSP&1.2.3.4&ISO^MR||||||O'Brien^John^Q^Jr^Dr\r"
    ),
    ("A40", Hl7Version.V2_3_1, "umlauts"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A40^ADT_A39|J2OY22THMZNVL64KTEEA|P|2.3.1||||||"
        b"8859/1\r"
        b"EVN|A40|20260102030405+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||M\xfcller^J\xfcrgen||19700101|M\r"
        b"MRG|OLD\\T\\1^^^HOSP&1.2.3.4&ISO^MR||||||M\xfcller^J\xfcrgen\r"
    ),
    ("A40", Hl7Version.V2_3_1, "groups"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A40^ADT_A39|J2OY22THMZNVL64KTEEA|P|2.3.1||||||"
        b"UNICODE UTF-8\r"
        b"EVN|A40|20260102030405+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||Yamada^Tarou^^^^^^A~"
        b"\xe5\xb1\xb1\xe7\x94\xb0^\xe5\xa4\xaa\xe9\x83\x8e^^^^^^I~"
        b"\xe3\x82\x84\xe3\x81\xbe\xe3\x81\xa0^\xe3\x81\x9f\xe3\x82\x8d\xe3\x81\x86^^^^^^P||19700101|M\r"
        b"MRG|OLD\\T\\1^^^HOSP&1.2.3.4&ISO^MR||||||Yamada^Tarou^^^^^^A~"
        b"\xe5\xb1\xb1\xe7\x94\xb0^\xe5\xa4\xaa\xe9\x83\x8e^^^^^^I~"
        b"\xe3\x82\x84\xe3\x81\xbe\xe3\x81\xa0^\xe3\x81\x9f\xe3\x82\x8d\xe3\x81\x86^^^^^^P\r"
    ),
    ("A40", Hl7Version.V2_3_1, "delimiters"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A40^ADT_A39|J2OY22THMZNVL64KTEEA|P|2.3.1||||||"
        b"UNICODE UTF-8\r"
        b"EVN|A40|20260102030405+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||A\\F\\B\\T\\C\\R\\D\\E\\F\\E\\E^x\\E\\^y\\.br\\z||19700101|M\r"
        b"MRG|OLD\\T\\1^^^HOSP&1.2.3.4&ISO^MR||||||A\\F\\B\\T\\C\\R\\D\\E\\F\\E\\E^x\\E\\^y\\.br\\z\r"
    ),
    ("A40", Hl7Version.V2_5_1, "apostrophe"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A40^ADT_A39|J2OY22THMZNVL64KTEEA|P|2.5.1\r"
        b"EVN||20260102030405+0100||||20260102030400+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||O'Brien^John^Q^Jr^Dr||19700101|M\r"
        b"MRG|OLD\\T\\1^^^HOSP&1.2.3.4&ISO^MR||||||O'Brien^John^Q^Jr^Dr\r"
    ),
    ("A40", Hl7Version.V2_5_1, "umlauts"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A40^ADT_A39|J2OY22THMZNVL64KTEEA|P|2.5.1||||||"
        b"8859/1\r"
        b"EVN||20260102030405+0100||||20260102030400+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||M\xfcller^J\xfcrgen||19700101|M\r"
        b"MRG|OLD\\T\\1^^^HOSP&1.2.3.4&ISO^MR||||||M\xfcller^J\xfcrgen\r"
    ),
    ("A40", Hl7Version.V2_5_1, "groups"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A40^ADT_A39|J2OY22THMZNVL64KTEEA|P|2.5.1||||||"
        b"UNICODE UTF-8\r"
        b"EVN||20260102030405+0100||||20260102030400+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||Yamada^Tarou^^^^^^A~"
        b"\xe5\xb1\xb1\xe7\x94\xb0^\xe5\xa4\xaa\xe9\x83\x8e^^^^^^I~"
        b"\xe3\x82\x84\xe3\x81\xbe\xe3\x81\xa0^\xe3\x81\x9f\xe3\x82\x8d\xe3\x81\x86^^^^^^P||19700101|M\r"
        b"MRG|OLD\\T\\1^^^HOSP&1.2.3.4&ISO^MR||||||Yamada^Tarou^^^^^^A~"
        b"\xe5\xb1\xb1\xe7\x94\xb0^\xe5\xa4\xaa\xe9\x83\x8e^^^^^^I~"
        b"\xe3\x82\x84\xe3\x81\xbe\xe3\x81\xa0^\xe3\x81\x9f\xe3\x82\x8d\xe3\x81\x86^^^^^^P\r"
    ),
    ("A40", Hl7Version.V2_5_1, "delimiters"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A40^ADT_A39|J2OY22THMZNVL64KTEEA|P|2.5.1||||||"
        b"UNICODE UTF-8\r"
        b"EVN||20260102030405+0100||||20260102030400+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||A\\F\\B\\T\\C\\R\\D\\E\\F\\E\\E^x\\E\\^y\\.br\\z||19700101|M\r"
        b"MRG|OLD\\T\\1^^^HOSP&1.2.3.4&ISO^MR||||||A\\F\\B\\T\\C\\R\\D\\E\\F\\E\\E^x\\E\\^y\\.br\\z\r"
    ),
    ("A08", Hl7Version.V2_3_1, "delimiters in ASCII"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A08^ADT_A01|IEYHEDQDJ3IK5ZOCHNYA|P|2.3.1\r"
        b"EVN|A08|20260102030405+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||O'A\\F\\B\\T\\C^D\\R\\E\\E\\F||19700101|M\r"
        b"PV1||N\r"
    ),
    ("A08", Hl7Version.V2_3_1, "delimiters in Latin-1"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A08^ADT_A01|IEYHEDQDJ3IK5ZOCHNYA|P|2.3.1||||||"
        b"8859/1\r"
        b"EVN|A08|20260102030405+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||d'\xc9t\xe9\\F\\\\T\\\\R\\^Zo\xeb\\E\\T\\E\\||19700101|M\r"
        b"PV1||N\r"
    ),
    ("A08", Hl7Version.V2_5_1, "delimiters in ASCII"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A08^ADT_A01|IEYHEDQDJ3IK5ZOCHNYA|P|2.5.1\r"
        b"EVN||20260102030405+0100||||20260102030400+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||O'A\\F\\B\\T\\C^D\\R\\E\\E\\F||19700101|M|||||||||||||||||||||||||202"
        b"60102030400+0100\r"
        b"PV1||N\r"
    ),
    ("A08", Hl7Version.V2_5_1, "delimiters in Latin-1"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A08^ADT_A01|IEYHEDQDJ3IK5ZOCHNYA|P|2.5.1||||||"
        b"8859/1\r"
        b"EVN||20260102030405+0100||||20260102030400+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||d'\xc9t\xe9\\F\\\\T\\\\R\\^Zo\xeb\\E\\T\\E\\||19700101|M|||||||||||||"
        b"||||||||||||20260102030400+0100\r"
        b"PV1||N\r"
    ),
    ("A40", Hl7Version.V2_3_1, "delimiters in ASCII"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A40^ADT_A39|J2OY22THMZNVL64KTEEA|P|2.3.1\r"
        b"EVN|A40|20260102030405+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||O'A\\F\\B\\T\\C^D\\R\\E\\E\\F||19700101|M\r"
        b"MRG|OLD\\T\\1^^^HOSP&1.2.3.4&ISO^MR||||||O'A\\F\\B\\T\\C^D\\R\\E\\E\\F\r"
    ),
    ("A40", Hl7Version.V2_3_1, "delimiters in Latin-1"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A40^ADT_A39|J2OY22THMZNVL64KTEEA|P|2.3.1||||||"
        b"8859/1\r"
        b"EVN|A40|20260102030405+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||d'\xc9t\xe9\\F\\\\T\\\\R\\^Zo\xeb\\E\\T\\E\\||19700101|M\r"
        b"MRG|OLD\\T\\1^^^HOSP&1.2.3.4&ISO^MR||||||d'\xc9t\xe9\\F\\\\T\\\\R\\^Zo\xeb\\E\\T\\E\\\r"
    ),
    ("A40", Hl7Version.V2_5_1, "delimiters in ASCII"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A40^ADT_A39|J2OY22THMZNVL64KTEEA|P|2.5.1\r"
        b"EVN||20260102030405+0100||||20260102030400+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||O'A\\F\\B\\T\\C^D\\R\\E\\E\\F||19700101|M\r"
        b"MRG|OLD\\T\\1^^^HOSP&1.2.3.4&ISO^MR||||||O'A\\F\\B\\T\\C^D\\R\\E\\E\\F\r"
    ),
    ("A40", Hl7Version.V2_5_1, "delimiters in Latin-1"): (
        b"MSH|^~\\&|ARCHSYNC|CITY|VNA|SITE|20260102030405+0100||ADT^A40^ADT_A39|J2OY22THMZNVL64KTEEA|P|2.5.1||||||"
        b"8859/1\r"
        b"EVN||20260102030405+0100||||20260102030400+0100\r"
        b"PID|||12345^^^HOSP&1.2.3.4&ISO^MR||d'\xc9t\xe9\\F\\\\T\\\\R\\^Zo\xeb\\E\\T\\E\\||19700101|M\r"
        b"MRG|OLD\\T\\1^^^HOSP&1.2.3.4&ISO^MR||||||d'\xc9t\xe9\\F\\\\T\\\\R\\^Zo\xeb\\E\\T\\E\\\r"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("trigger", "version", "name"), GOLDEN)
def test_a_message_is_the_same_for_ever(trigger: str, version: Hl7Version, name: str) -> None:
    assert build(trigger, version, name) == GOLDEN[trigger, version, name]


@pytest.mark.parametrize(("trigger", "version", "name"), GOLDEN)
def test_every_golden_message_is_valid(trigger: str, version: Hl7Version, name: str) -> None:
    validate(GOLDEN[trigger, version, name])
