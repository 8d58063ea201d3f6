"""Open files of a process: counted, compared with its limit, shown as metrics, and the limit raised."""

import os
import resource
import subprocess
import sys

from host.open_files import OpenFiles

RAISED = "import resource; from host.open_files import raise_limit; raise_limit(); print(*resource.getrlimit(resource.RLIMIT_NOFILE))"


def test_open_files_of_a_process_are_counted() -> None:
    before = OpenFiles.of(os.getpid())
    assert before is not None
    assert before.limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    descriptors = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    try:
        after = OpenFiles.of(os.getpid())
        assert after is not None
        assert after.used - before.used == 20
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_a_process_that_has_ended_has_none() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert OpenFiles.of(process.pid) is None


def test_few_are_left_from_four_fifths_on_and_none_just_below_the_limit() -> None:
    assert [OpenFiles(used, 1_000).few_left for used in (799, 800)] == [False, True]
    assert [OpenFiles(used, 1_000).exhausted for used in (991, 992, 1_000)] == [False, True, True]


def test_both_numbers_are_metrics() -> None:
    assert "cellstate_open_files 7\n" in OpenFiles(7, 9).exposition()
    assert "cellstate_open_files_limit 9\n" in OpenFiles(7, 9).exposition()


def test_the_limit_is_raised_to_what_the_process_may_have() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -Sn 256; ulimit -Hn 512; exec "$@"', "sh", sys.executable, "-c", RAISED],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["512", "512"]
