"""`make bench`: every benchmark, one after the other, but for `benchmarks.capacity`, which takes ten minutes and 6 GB of disk."""

import sys

from benchmarks import embedded_store, serving, step_graph

if __name__ == "__main__":
    embedded_store.main()
    step_graph.main()
    sys.exit(serving.main())
