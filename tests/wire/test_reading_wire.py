"""What is read of a study's files while it is sent: each is opened once, and nothing is read twice but its header."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
from pydicom import dcmread

from archsync.core.transfer import OutgoingInstance, StoreResult
from archsync.net.dicom.store import store_instances

COUNT = 2000
HEADER_BYTES = 16384
_PLACE = "2.25.1000000000000000000"


class Opened:
    """Counts what this process opens, while ``folder`` says where. A hook of the interpreter can't be taken back."""

    folder: str | None = None
    times: ClassVar[Counter[str]] = Counter()

    @classmethod
    def note(cls, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and cls.folder is not None and str(arguments[0]).startswith(cls.folder):
            cls.times[str(arguments[0])] += 1


sys.addaudithook(Opened.note)


@pytest.fixture
def study(sample, tmp_path):
    """2,000 instances."""
    data_set = dcmread(sample("MR_small.dcm"))
    data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = _PLACE
    template_file = tmp_path / "template.dcm"
    data_set.save_as(template_file)
    template, folder = template_file.read_bytes(), tmp_path / "study"
    folder.mkdir()
    instances = []
    for number in range(COUNT):
        uid = f"2.25.{10**18 + number + 1}"
        path = folder / f"{number:04}.dcm"
        path.write_bytes(template.replace(_PLACE.encode(), uid.encode()))
        instances.append(
            OutgoingInstance(
                path.stem,
                data_set.SOPClassUID,
                uid,
                data_set.file_meta.TransferSyntaxUID,
                path.as_uri(),
                study_instance_uid=data_set.StudyInstanceUID,
                series_instance_uid=data_set.SeriesInstanceUID,
            )
        )
    Opened.folder, Opened.times = str(folder), Counter()
    yield folder, instances
    Opened.folder = None


def test_planning_opens_one_file_and_sending_opens_each_once_and_reads_nothing_twice(scripted, study, monkeypatch):
    folder, instances = study
    archive, read = scripted(), Counter[str]()

    def counting(call):
        def counted(descriptor, *arguments):
            got = call(descriptor, *arguments)
            name = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - one look at a link
            if name.startswith(str(folder)):
                read[name] += len(got) if isinstance(got, bytes) else got
            return got

        return counted

    for name in ("pread", "preadv", "read", "readv"):
        monkeypatch.setattr(os, name, counting(getattr(os, name)))
    sending = store_instances(archive.endpoint, instances)
    assert next(sending).result is StoreResult.STORED
    assert len(Opened.times) <= 2, "the first, and the next one ahead: contexts are planned without looking into files"
    assert all(outcome.result is StoreResult.STORED for outcome in sending)
    assert len(archive.stored) == COUNT
    assert len(Opened.times) == COUNT
    assert set(Opened.times.values()) == {1}
    size = Path(instances[0].location.removeprefix("file://")).stat().st_size
    assert len(read) == COUNT
    assert max(read.values()) <= size + min(size, HEADER_BYTES), "the header when it is checked, the whole when it goes"


def test_what_is_left_to_the_slow_reader_is_said_once_for_a_job(archive, endpoint, sample, outgoing, copies, caplog):
    caplog.set_level("INFO", logger="archsync")
    odd = [outgoing(sample(name)) for name in ("MR_small_bigendian.dcm", "image_dfl.dcm")]
    outcomes = list(store_instances(endpoint, [*map(outgoing, copies(3)), *odd]))
    assert {outcome.result for outcome in outcomes} == {StoreResult.STORED}
    (said,) = (record.getMessage() for record in caplog.records if "slow" in record.getMessage())
    assert said.startswith("2 files")
    assert odd[0].sop_instance_uid in said
    caplog.clear()
    list(store_instances(endpoint, list(map(outgoing, copies(3)))))
    assert "slow" not in caplog.text
