"""Grading of programs: finds the program in a response, reads its tests, and runs it in a sandbox."""
