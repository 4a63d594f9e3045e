"""Data: from the user's file to examples, with a ledger that accounts for every row."""
