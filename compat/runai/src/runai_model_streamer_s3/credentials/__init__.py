"""S3 credentials."""
