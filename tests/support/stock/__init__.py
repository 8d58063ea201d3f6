"""Programs that use other people's clients, unmodified. They run in the environment of requirements/clients.txt, not in the tests' own."""
