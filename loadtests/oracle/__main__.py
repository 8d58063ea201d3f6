import sys

from loadtests.oracle.judge import main

sys.exit(main())
