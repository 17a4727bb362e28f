"""The display of a search to a person: the live view, the tables of the commands, the report at the end."""
