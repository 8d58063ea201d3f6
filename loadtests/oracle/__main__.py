import sys

from loadtests.oracle.command import main

sys.exit(main())
