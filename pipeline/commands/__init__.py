"""The commands of `mesm-pipeline`, one file a noun."""
