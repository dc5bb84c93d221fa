"""The model test: random histories of a platform × random faults; once faults stop, every archive holds the truth.

The rules under test are the real ones of ``core``. Around them stands a small ledger in memory (``model``), which keeps
what the real one keeps and runs jobs one step at a time. The archives judge by the receiver's own rules. A history that
fails is cut down to what it needs, and its story is told together with its seed.
"""

from __future__ import annotations

import pytest

from model.search import find_failure

HISTORIES = 4000
BATCHES = 8


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_archive_holds_the_truth_once_faults_stop(batch):
    """Invariants 1 to 7 of the design, in random histories."""
    failure = find_failure(range(batch, HISTORIES, BATCHES))

    assert failure is None, f"\n{failure}"
