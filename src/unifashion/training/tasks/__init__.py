"""The tasks: which passes run, which losses come out. One file a task; ``task.py`` says what the trainer asks of them."""
