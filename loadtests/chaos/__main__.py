import sys

from loadtests.chaos.command import main

sys.exit(main())
