"""What cleaners look for, and how: identifiers, secrets, languages, code, and what examples have in common."""
