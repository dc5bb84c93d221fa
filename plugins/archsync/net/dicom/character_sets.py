"""Keeps a data set's text true to its Specific Character Set (0008,0005) when new values come in."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable

from pydicom.charset import convert_encodings, decode_bytes, encode_string, python_encoding
from pydicom.dataset import Dataset

from archsync.errors import InvalidInput

UNICODE = "ISO_IR 192"
_DEFAULT_REPERTOIRE = frozenset({"", "ISO_IR 6", "ISO 2022 IR 6"})
_CHARACTER_SET = 0x00080005
_DELIMITERS = frozenset(b"\\^=")
_ESCAPE = b"\x1b"
_NOT_ALWAYS_ASCII = re.compile(rb"[\x1b~\\]")  # code extensions; the overline and yen sign of JIS X 0201
_TEXT_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})


def suit_character_set(dataset: Dataset, texts: Iterable[str]) -> bool:
    """See that ``texts`` can be encoded in the data set: convert all its text to ISO_IR 192 if not; True if it did.

    Conversion covers items of sequences, also those with a character set of their own, and leaves values of unknown VR
    (UN) as they are.

    Raises:
        InvalidInput: ``text-not-encodable``: conversion is due, and the text there is not in the set it claims.
    """
    names = _names(dataset)
    if all(_can_say(names, text) for text in texts):
        return False
    if any(name not in python_encoding for name in names):
        raise _unusable(f"its character set {'/'.join(names)!r} is unknown")
    _convert(dataset)
    dataset.SpecificCharacterSet = UNICODE
    return True


def decode_text(value: bytes, character_set: bytes) -> str | None:
    """The text of a value (also of VR PN) under a Specific Character Set, both as they stand in a file.

    None if the value is not in that set, or the set is unknown.
    """
    if value.isascii() and not _NOT_ALWAYS_ASCII.search(value):
        return value.decode("ascii")
    names = [name.strip() for name in character_set.decode("ascii", "replace").strip("\0 ").split("\\")]
    if any(name not in python_encoding for name in names):
        return None
    # pydicom takes the default repertoire for Latin-1, which has more than ASCII
    if names[0] in _DEFAULT_REPERTOIRE and not value.partition(_ESCAPE)[0].isascii():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = decode_bytes(value, convert_encodings(names), set(_DELIMITERS))
    return None if "\ufffd" in text else text


def _names(dataset: Dataset) -> list[str]:
    value = dataset.get("SpecificCharacterSet") or ""
    return [value] if isinstance(value, str) else [str(name or "") for name in value]


def _can_say(names: list[str], text: str) -> bool:
    """True if the set has every character. ASCII is in all of them, apart from the yen sign's and overline's places."""
    if text.isascii():
        return not ({"ISO_IR 13", "ISO 2022 IR 13"} & set(names) and "~" in text)
    if any(name not in python_encoding for name in names):
        return False
    # pydicom takes the default repertoire for Latin-1, which has more than ASCII
    if names[0] in _DEFAULT_REPERTOIRE and any("\x80" <= letter <= "\xff" for letter in text):
        return False
    encodings = convert_encodings(names)
    return decode_bytes(encode_string(text, encodings), encodings, {0x5C}) == text


def _convert(dataset: Dataset) -> None:
    for tag in list(dataset.keys()):
        element = dataset[tag]
        if element.VR == "SQ":
            for item in element.value or ():
                _convert(item)
                if _CHARACTER_SET in item:
                    del item[_CHARACTER_SET]
        elif element.VR in _TEXT_VRS and "�" in str(element.value):
            raise _unusable("its text is not in the character set it claims")


def _unusable(problem: str) -> InvalidInput:
    return InvalidInput(
        f"the new values need {UNICODE}, and {problem}",
        code="text-not-encodable",
        next_step="Correct Specific Character Set (0008,0005) of the file on the platform, then retry.",
    )
