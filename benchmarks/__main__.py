"""`make bench`: every benchmark, one after the other."""

import sys

from benchmarks import embedded_store, serving, step_graph

if __name__ == "__main__":
    embedded_store.main()
    step_graph.main()
    sys.exit(serving.main())
