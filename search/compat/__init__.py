"""Interfaces of other tools, so that their scripts run here."""
