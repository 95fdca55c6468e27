"""The contracts between the rooms, without implementations."""
