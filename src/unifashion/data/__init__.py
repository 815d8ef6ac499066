"""What is on disk, read into typed records: one file per data set."""
