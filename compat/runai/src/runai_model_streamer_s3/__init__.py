"""S3 for runai_model_streamer: the import names of the original's package."""
