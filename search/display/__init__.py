"""Displays of a search for people: the live view, tables, the closing report."""
