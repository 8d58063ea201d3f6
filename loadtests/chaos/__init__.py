"""A client that treats sessions as networks and impatient users do, and records every answer."""
