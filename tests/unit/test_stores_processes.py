"""Several processes over one store: no increment is lost and none is counted twice."""

import multiprocessing

from tests.support.store_kinds import KINDS, increment

PROCESSES, TIMES, KEYS = 4, 300, [b"traffic/one", b"traffic/other"]
SPAWN = multiprocessing.get_context("spawn")


def test_counters_that_four_processes_increment_by_compare_and_set_come_out_right(durable, tmp_path):
    together = SPAWN.Barrier(PROCESSES)
    processes = [SPAWN.Process(target=increment, args=(durable, tmp_path, KEYS, TIMES, together)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    store = KINDS[durable].open(tmp_path)
    assert [int(entry.value) for entry in store.get_many(KEYS)] == [PROCESSES * TIMES] * len(KEYS)
    assert store.check() == []
    store.close()


def test_what_one_process_committed_another_reads_at_once(durable, tmp_path):
    store = KINDS[durable].open(tmp_path)
    alone = SPAWN.Barrier(1)
    process = SPAWN.Process(target=increment, args=(durable, tmp_path, KEYS[:1], 1, alone))
    process.start()
    process.join()
    [entry] = store.get_many(KEYS[:1])
    store.close()
    assert entry is not None
    assert entry.value == b"1"
