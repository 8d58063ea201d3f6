"""`make bench`: every benchmark, one after the other, but for `benchmarks.capacity`, which takes ten minutes and 6 GB of disk."""

import sys

from benchmarks import core, embedded_store, rollouts, serving, stages, step_graph

if __name__ == "__main__":
    embedded_store.main()
    step_graph.main()
    core.main()
    stages.main()
    rollouts.main()
    sys.exit(serving.main())
