"""How scripts for other tools run here."""
