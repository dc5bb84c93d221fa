"""Many stores to the fastest peers, and a count of the answers: none may get lost, on any number of associations.

    scripts/benchmark stores [--stores 100000] [--receivers null,tuned] [--associations 1,8]

Fast peers are where senders lose answers: those that come before anybody waits for them. Every store has to be answered
with status 0 for its own message, or the run fails; each job sends its files over one group of associations, and jobs
follow each other until there were enough stores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from archsync.core.transfer import Endpoint, OutgoingInstance, Share
from archsync.net.dicom.pace import Pace
from archsync.net.dicom.store import store_instances
from sending.corpus import describe_corpus, make_corpus
from sending.receivers import RECEIVERS, Receivers

_KIND = "sr"
"""The smallest, so that most of a store is asking and answering."""
_FILES = 2500


def store(port: int, instances: list[OutgoingInstance], stores: int, associations: int) -> Counter[str]:
    """Send the instances again and again; gives how many stores ended in which way."""
    endpoint = Endpoint("127.0.0.1", port, called_ae_title="NULL", dimse_timeout_s=10)
    ends: Counter[str] = Counter()
    while (left := stores - ends.total()) > 0:
        job = instances[:left]
        answered = Counter(
            (outcome.instance.sop_instance_uid, outcome.result.value, outcome.status)
            for outcome in store_instances(endpoint, job, Pace(Share(associations)))
        )
        if set(answered.values()) != {1} or len(answered) != len(job):
            raise SystemExit("an instance was told of twice, or not at all")
        ends.update(result for _, result, _ in answered)
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stores", type=int, default=100_000, help="to each receiver (default 100000)")
    parser.add_argument("--receivers", default="null,tuned", help=f"of {', '.join(RECEIVERS)}")
    parser.add_argument("--associations", default="1,8", help="at most so many at a time (default 1, then 8)")
    arguments = parser.parse_args()
    lost = 0
    with tempfile.TemporaryDirectory(prefix="archsync-bench-") as temporary, Receivers() as receivers:
        folder = Path(temporary, _KIND)
        make_corpus(folder, _KIND, _FILES)
        instances = describe_corpus(folder, _KIND)
        for name in arguments.receivers.split(","):
            port = receivers.start(name)
            for associations in map(int, arguments.associations.split(",")):
                if name in ("stock", "tuned") and associations > 1:
                    continue  # storescp serves one association at a time
                begun = time.monotonic()
                ends = store(port, instances, arguments.stores, associations)
                seconds = time.monotonic() - begun
                lost += arguments.stores - ends["stored"]
                print(
                    f"{name:8} {associations} associations: {ends['stored']} of {arguments.stores} stores answered "
                    f"in {seconds:.0f} s, {arguments.stores - ends['stored']} lost",
                    flush=True,
                )
    if lost:
        raise SystemExit(f"{lost} answers were lost")


if __name__ == "__main__":
    main()
