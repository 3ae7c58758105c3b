"""A classifier behind HTTP: answers and reasons for programs, and a page for people."""
