"""For teachers: submissions are found, run in a sandbox, and graded by values compared outside."""
