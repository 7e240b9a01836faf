"""Reports for users: tables, statistics over seeds, pictures."""
