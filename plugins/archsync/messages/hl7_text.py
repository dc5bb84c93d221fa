"""HL7 v2 text: values escaped and unescaped, messages encoded and decoded, and a tolerant reader of segments.

A message is built from leaves. Each leaf (a component or subcomponent without structure) is escaped first and joined
with delimiters afterwards, so nothing in a name can pass for structure. Then the whole message is encoded at once in
the one character set that MSH-18 names. Reading goes the other way and forgives what peers do: any delimiters, any
line ends, a byte order mark.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType

from archsync.core.adt import CharacterSet
from archsync.errors import InvalidInput

SEGMENT_END = "\r"
NULL = '""'
"""As a whole field: delete the value (an empty field says nothing about it)."""

CODECS = MappingProxyType(
    {
        CharacterSet.ASCII: "ascii",
        CharacterSet.LATIN_1: "iso8859-1",
        CharacterSet.LATIN_2: "iso8859-2",
        CharacterSet.CYRILLIC: "iso8859-5",
        CharacterSet.GREEK: "iso8859-7",
        CharacterSet.LATIN_5: "iso8859-9",
        CharacterSet.LATIN_9: "iso8859-15",
        # Returns to ASCII before every delimiter, as HL7 v2.5 2.9.2 wants: structure stays readable after decoding.
        CharacterSet.JAPANESE: "iso2022-jp",
        CharacterSet.UTF_8: "utf-8",
    }
)

_LINE_BREAK = "\\.br\\"
_ESCAPES: dict[int, str | None] = {
    **dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)]),  # C0 and C1 controls: dropped
    ord("\r"): _LINE_BREAK,
    ord("\n"): _LINE_BREAK,
    ord("\\"): "\\E\\",
    ord("|"): "\\F\\",
    ord("^"): "\\S\\",
    ord("&"): "\\T\\",
    ord("~"): "\\R\\",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def has_control_characters(text: str) -> bool:
    """Tell whether a value holds C0 or C1 control characters, line ends included."""
    return _CONTROL.search(text) is not None


def escape(leaf: str) -> str:
    """Escape a value without structure (HL7 v2.5 2.7.1).

    Line ends become ``\\.br\\``, other control characters are dropped. A value that is literally ``""`` is written in
    hexadecimal: as it stands it would mean "delete".
    """
    if leaf == NULL:
        return "\\X2222\\"
    return leaf.replace("\r\n", "\n").translate(_ESCAPES)


def unescape(leaf: str, delimiters: str = "|^~\\&") -> str:
    """Undo :func:`escape`; ``delimiters`` are field, component, repetition, escape and subcomponent, as in MSH.

    Sequences without a meaning for plain values stay as they are.
    """
    field, component, repetition, mark, subcomponent = tuple(delimiters)
    plain = {"F": field, "S": component, "R": repetition, "E": mark, "T": subcomponent, ".br": "\n"}

    def replacement(match: re.Match[str]) -> str:
        body = match[1]
        if body in plain:
            return plain[body]
        if re.fullmatch(r"X(?:[0-9A-Fa-f]{2})+", body):
            return bytes.fromhex(body[1:]).decode("latin-1")
        return match[0]

    quoted = re.escape(mark)
    return re.sub(f"{quoted}([^{quoted}]*){quoted}", replacement, leaf)


def encode_text(text: str, character_set: CharacterSet) -> bytes:
    """Encode a whole message.

    Raises:
        InvalidInput: ``hl7-character-set``: a character is not in the set. It is never replaced by another.
    """
    try:
        return text.encode(CODECS[character_set])
    except UnicodeEncodeError:
        # Without the cause: it quotes the text, which holds patient data.
        raise InvalidInput(
            f"the message holds a character that the character set {character_set.value} lacks",
            code="hl7-character-set",
            next_step="Let the destination take UNICODE UTF-8, or a set that holds its patients' names.",
        ) from None


def decode_text(message: bytes) -> str:
    """Decode a message as its MSH-18 says.

    Raises:
        InvalidInput: ``hl7-invalid-message``: MSH-18 names an unknown set, or the bytes are not in it.
    """
    # MSH up to field 18 is ASCII in every set that is listed.
    header = parse_segments(message.split(b"\r", 1)[0].decode("latin-1"))
    named = header[0].field(18) if header else ""
    try:
        return message.decode(CODECS[CharacterSet(named or "ASCII")])
    except ValueError:
        raise InvalidInput(
            "the message is not in the character set that its MSH-18 names", code="hl7-invalid-message"
        ) from None


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment as read; ``fields`` are as in HL7, so that ``field(1)`` of an MSH is the field separator."""

    name: str
    fields: tuple[str, ...]
    delimiters: str

    def field(self, number: int) -> str:
        """A field as text, still escaped; empty where the segment is shorter."""
        return self.fields[number - 1] if 0 < number <= len(self.fields) else ""

    def repetitions(self, number: int) -> list[str]:
        """The repetitions of a field."""
        return self.field(number).split(self.delimiters[2])

    def component(self, number: int, component: int, subcomponent: int | None = None) -> str:
        """A component (or subcomponent) of a field's first repetition, unescaped."""
        parts = self.repetitions(number)[0].split(self.delimiters[1])
        text = parts[component - 1] if component <= len(parts) else ""
        if subcomponent is not None:
            subparts = text.split(self.delimiters[4])
            text = subparts[subcomponent - 1] if subcomponent <= len(subparts) else ""
        return unescape(text, self.delimiters)


def parse_segments(text: str) -> list[Segment]:
    """Split a message into segments; empty if it does not begin with an MSH that names its delimiters.

    Segments may end with CR, LF or both, and blanks or a byte order mark may stand before the first.
    """
    lines = [line for line in re.split(r"[\r\n]+", text.lstrip("\ufeff\u00ef\u00bb\u00bf \t\r\n")) if line.strip()]
    if not lines or not re.match(r"MSH[^\w\s]{2}", lines[0]):
        return []
    separator = lines[0][3]
    named = lines[0][4:].split(separator, 1)[0]
    delimiters = separator + named[:4] + "^~\\&"[len(named[:4]) :]
    segments = []
    for line in lines:
        name, *fields = line.split(separator)
        segments.append(Segment(name, (separator, *fields) if name == "MSH" else tuple(fields), delimiters))
    return segments
