"""Text and pictures for people: tables, statistics over seeds, curves."""
