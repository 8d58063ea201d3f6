"""Recurrent layers and time loops as operations that every target can hold."""
