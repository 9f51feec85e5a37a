"""What is read from the audit trail, and what is written to it besides the records of sites."""
