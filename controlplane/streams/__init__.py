"""The control streams of this replica: who is connected, what each was given, what it answered."""
