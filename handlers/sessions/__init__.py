"""What a session is: its rules, its record, its state bytes, and what keeps the sessions of a store in order."""
