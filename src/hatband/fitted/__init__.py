"""What a fitted model knows of rows."""
