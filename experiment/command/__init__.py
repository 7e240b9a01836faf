"""The command line: flags, `--help`, exit statuses, and what TensorFlow may print."""
