import sys

from loadtests.load.command import main

sys.exit(main())
