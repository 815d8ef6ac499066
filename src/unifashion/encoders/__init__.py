"""What turns images, texts and composed queries into vectors that can be compared."""
