"""What stands for a frozen weight: questions answered without its values, and these where they are lent."""
