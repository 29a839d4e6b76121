"""What happens to tickets when processes are killed, stopped and started again."""
