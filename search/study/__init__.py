"""The facts of a search: records, the journal, and the study that they fold into."""
