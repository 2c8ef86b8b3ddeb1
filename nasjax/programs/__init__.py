"""Compiled programs: chips that are not there, and what programs cost."""
